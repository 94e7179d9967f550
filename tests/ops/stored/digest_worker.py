"""`python -m tests.ops.stored.digest_worker PORT`: a worker whose answers are digests of their prompts.

So an answer shows whether its history was complete. The digest also chooses the answer's length and its end.
"""

import asyncio
import hashlib
import sys
from collections.abc import AsyncIterator, Sequence

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, inputs_of, last_token, message, serving, token, whole

TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
PARAMETERS = {"chat_template": TEMPLATE, "tasks": f"{contract.TASK_GENERATE},{contract.TASK_EMBED}"}
REFUSED = "refuse this"
"""The worker refuses a prompt that ends with a message of this text, a stream after its first words."""
N_WORDS = 6
WORD_SECONDS = 0.01
CUT_DIGITS = "01"
"""Answers whose last digit is one of these end as cut off by `max_output_tokens`."""


def prompt(messages: Sequence[tuple[str, str]]) -> str:
    """The prompt for messages given as pairs of role and text."""
    return "".join(f"{role}: {text}\n" for role, text in messages)


def answer(prompt: str) -> str:
    return hashlib.sha256(prompt.encode()).hexdigest()[: 4 * N_WORDS]


def embedding(prompt: str) -> list[float]:
    """Four numbers from the digest."""
    return [int(digit, 16) / 16 for digit in answer(prompt)[:4]]


def finish_reason(text: str) -> str:
    return "length" if text[-1] in CUT_DIGITS else "stop"


def _answer_to(request: ModelInferRequest) -> tuple[str, bool]:
    """The text of the answer, and whether it is refused."""
    text = inputs_of(request)["prompt"][0].decode()
    return answer(text), text.rstrip("\n").endswith(REFUSED)


async def _infer(request: ModelInferRequest) -> ModelInferResponse:
    text, is_refused = _answer_to(request)
    await asyncio.sleep(WORD_SECONDS)
    if is_refused:
        raise Refusal("INTERNAL", "refused")
    if request.parameters[contract.PARAM_TASK].string_param == contract.TASK_EMBED:
        vector = embedding(inputs_of(request)["prompt"][0].decode())
        return message((contract.EMBEDDING, vector), (contract.PROMPT_TOKENS, [3]))
    return whole(text, reason=finish_reason(text))


async def _stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
    text, is_refused = _answer_to(request)
    for start in range(0, len(text), 4):
        yield token(text[start : start + 4])
        await asyncio.sleep(WORD_SECONDS)
        if is_refused:
            raise Refusal("INTERNAL", "refused")
    yield last_token(reason=finish_reason(text))


class DigestWorker(FakeWorker):
    def _record(self, request: ModelInferRequest) -> None:
        """Keeps nothing, since it runs for hours."""
        self.metadata.clear()
        self.lookups.clear()


async def main(port: int) -> None:
    worker = DigestWorker(_infer, _stream, parameters=PARAMETERS, step_batches=False)
    async with serving(worker, port):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
