"""The dialect of this project's own contract. PURE."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from openai_server.backends.dialects.anyserve import decode, encode
from openai_server.backends.dialects.anyserve.decode import StreamReader
from openai_server.backends.dialects.base import Dialect, ServerInputs, Target
from openai_server.core.answer import Answer
from openai_server.core.turn import NO_GUIDE, Prompt, Turn
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse


class AnyServe:
    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs
    ) -> Iterator[ModelInferRequest]:
        """The calls. If there are several prompts, the id of each call ends with the number of its prompt."""
        if inputs := encode.guide_inputs(turn.guide, target):
            server_inputs = {**server_inputs, **inputs}
            turn = replace(turn, guide=NO_GUIDE)
        if turn.chooses_best and turn.top_logprobs is None:
            server_inputs = {**server_inputs, contract.LOGPROBS: [0]}  # needed to choose the best
        for k, prompt in enumerate(prompts):
            yield encode.infer_request(
                turn,
                prompt,
                model=target.model,
                request_id=f"{target.id}-{k}" if len(prompts) > 1 else target.id,
                input_names=target.input_names,
                server_inputs=server_inputs,
            )

    def fields(self, turn: Turn) -> Mapping[str, str]:
        return encode.fields(turn)

    def answer(self, response: ModelInferResponse, n: int) -> Answer:
        return decode.answer(response, n)

    def reader(self, n: int) -> StreamReader:
        return StreamReader(n)


ANYSERVE: Dialect = AnyServe()
