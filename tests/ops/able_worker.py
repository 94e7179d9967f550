"""A worker without a model that supports every task but chats, and returns every output, in its own thread.

Its chats are rendered to prompts: a model that takes chats itself gets none.
"""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker, inputs_of, message, serving

TEMPLATE = (
    '{% if tools %}{{ tools | tojson }}<tool_call>"arguments"</tool_call>{% endif %}'
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n{% endfor %}"
    "{% if enable_thinking %}<think></think>{% endif %}"
)
PARAMETERS = {
    "chat_template": TEMPLATE,
    "tasks": ",".join(PROMPT_TASKS),
    "context_length": "4096",
    "vocab_size": "100",
    "context_length_trained": "8192",
    "embedding_length": "2",
    "parameter_count": "1000",
    "size": "2000",
}
PIECES = ("<think>", "hm", "</think>", "well", '<tool_call>{"name": "f", "arg', 'uments": {"a": 1}}</tool_call>')
"""Pieces of every response: a chat with tools returns reasoning, text and a call."""


def _logprobs(
    inputs: dict[str, list[Any]], indexes: list[int], pieces: list[str]
) -> list[tuple[TensorSpec, list[Any]]]:
    """Returns the log probabilities of `pieces`, if the request wants them."""
    if "logprobs" not in inputs:
        return []
    top, n = inputs["logprobs"][0], len(pieces)
    return [
        (contract.LOGPROB_INDEX, indexes),
        (contract.LOGPROB_TOKEN, [piece.encode() for piece in pieces]),
        (contract.LOGPROB, [-0.5] * n),
        (contract.TOP_LOGPROB_TOKEN, [b"\xe2"] * top * n),
        (contract.TOP_LOGPROB, [-1.5] * top * n),
    ]


def _end(inputs: dict[str, list[Any]], n: int) -> list[tuple[TensorSpec, list[Any]]]:
    marked = [(contract.MARKED_TOKENS, [1] * n)] if "mark_end" in inputs else []
    return [
        (contract.FINISH_REASON, [b"stop"] * n),
        (contract.PROMPT_TOKENS, [3]),
        (contract.CACHED_TOKENS, [1]),
        (contract.COMPLETION_TOKENS, [2] * n),
        *marked,
    ]


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    inputs = inputs_of(request)
    match request.parameters[contract.PARAM_TASK].string_param:
        case contract.TASK_EMBED:
            return message((contract.EMBEDDING, [0.5, 1.0]), (contract.PROMPT_TOKENS, [2]))
        case contract.TASK_RANK:
            return message((contract.SCORE, [0.5]), (contract.PROMPT_TOKENS, [3]))
        case contract.TASK_TOKENIZE:
            return message((contract.TOKEN_IDS, [1, 2]), (contract.TOKEN_PIECES, [b"a", b"\xe2"]))
        case contract.TASK_DETOKENIZE:
            return message((contract.WHOLE_TEXT, [b"text"]))
    n = inputs.get("n", [1])[0]
    text = "".join(PIECES).encode()
    rows = [index for index in range(n) for _ in PIECES]
    return message((contract.TEXT, [text] * n), *_end(inputs, n), *_logprobs(inputs, rows, [*PIECES] * n))


async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    inputs = inputs_of(request)
    for index in range(inputs.get("n", [1])[0]):
        for piece in PIECES:
            yield message(
                (contract.TOKEN, [piece.encode()]), (contract.INDEX, [index]), *_logprobs(inputs, [index], [piece])
            )
        yield message((contract.TOKEN, [b""]), (contract.INDEX, [index]), *_end(inputs, 1))


def able_worker() -> FakeWorker:
    inputs = {spec.name for task in PROMPT_TASKS.values() for spec in (*task.inputs, *contract.INPUTS)}
    return FakeWorker(infer, stream, inputs=inputs, parameters=PARAMETERS, step_batches=False)


@contextmanager
def listening(worker: FakeWorker | None = None) -> Iterator[str]:
    """Yields the address of `worker`, by default an able one; it ends with the block."""
    ports: list[int] = []
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(worker or able_worker()) as port:
            ports.append(port)
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join()
