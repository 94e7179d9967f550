"""A worker without a model that answers all there is to ask, with all that can be told; in a thread of its own."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, inputs_of, message, serving

TEMPLATE = (
    '{% if tools %}{{ tools | tojson }}<tool_call>"arguments"</tool_call>{% endif %}'
    "{% for m in messages %}{{ m.role }}: {{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}\n{% endfor %}"
    "{% if enable_thinking %}<think></think>{% endif %}"
)
PARAMETERS = {
    "chat_template": TEMPLATE,
    "tasks": ",".join(contract.TASKS),
    "context_length": "4096",
    "vocab_size": "100",
    "context_length_trained": "8192",
    "embedding_length": "2",
    "parameter_count": "1000",
    "size": "2000",
}
PIECES = ("<think>", "hm", "</think>", "well", '<tool_call>{"name": "f", "arg', 'uments": {"a": 1}}</tool_call>')
"""Of every answer: what a chat with tools has to tell in every way that it can."""


def _likely(given: dict[str, list[Any]], indexes: list[int], pieces: list[str]) -> list[tuple[TensorSpec, list[Any]]]:
    """The log probabilities of `pieces`, if they were asked for."""
    if "logprobs" not in given:
        return []
    top, n = given["logprobs"][0], len(pieces)
    return [
        (contract.LOGPROB_INDEX, indexes),
        (contract.LOGPROB_TOKEN, [piece.encode() for piece in pieces]),
        (contract.LOGPROB, [-0.5] * n),
        (contract.TOP_LOGPROB_TOKEN, [b"\xe2"] * top * n),
        (contract.TOP_LOGPROB, [-1.5] * top * n),
    ]


def _ended(given: dict[str, list[Any]], n: int) -> list[tuple[TensorSpec, list[Any]]]:
    marked = [(contract.MARKED_TOKENS, [1] * n)] if "mark_end" in given else []
    return [
        (contract.FINISH_REASON, [b"stop"] * n),
        (contract.PROMPT_TOKENS, [3]),
        (contract.CACHED_TOKENS, [1]),
        (contract.COMPLETION_TOKENS, [2] * n),
        *marked,
    ]


async def infer(request: ModelInferRequest) -> ModelInferResponse:
    given = inputs_of(request)
    match request.parameters[contract.PARAM_TASK].string_param:
        case contract.TASK_EMBED:
            return message((contract.EMBEDDING, [0.5, 1.0]), (contract.PROMPT_TOKENS, [2]))
        case contract.TASK_RANK:
            return message((contract.SCORE, [0.5]), (contract.PROMPT_TOKENS, [3]))
        case contract.TASK_TOKENIZE:
            return message((contract.TOKEN_IDS, [1, 2]), (contract.TOKEN_PIECES, [b"a", b"\xe2"]))
        case contract.TASK_DETOKENIZE:
            return message((contract.WHOLE_TEXT, [b"text"]))
    n = given.get("n", [1])[0]
    text = "".join(PIECES).encode()
    rows = [index for index in range(n) for _ in PIECES]
    return message((contract.TEXT, [text] * n), *_ended(given, n), *_likely(given, rows, [*PIECES] * n))


async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    given = inputs_of(request)
    for index in range(given.get("n", [1])[0]):
        for piece in PIECES:
            yield message(
                (contract.TOKEN, [piece.encode()]), (contract.INDEX, [index]), *_likely(given, [index], [piece])
            )
        yield message((contract.TOKEN, [b""]), (contract.INDEX, [index]), *_ended(given, 1))


def able_worker() -> FakeWorker:
    inputs = {spec.name for task in contract.TASKS.values() for spec in (*task.inputs, *contract.INPUTS)}
    return FakeWorker(infer, stream, inputs=inputs, parameters=PARAMETERS, step_batches=False)


@contextmanager
def listening() -> Iterator[str]:
    """Its address, until the block ends."""
    ports: list[int] = []
    started, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(able_worker()) as port:
            ports.append(port)
            loops.append(asyncio.get_running_loop())
            started.set()
            await over.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert started.wait(10)
        yield f"127.0.0.1:{ports[0]}"
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join()
