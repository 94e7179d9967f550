"""The dialect of this project's own contract: the bundled worker, and any other backend with its tensors. PURE."""

from collections.abc import Container, Iterator, Mapping, Sequence
from functools import partial

from openai_server.backends.dialects.anyserve import decode, encode, poc
from openai_server.backends.dialects.anyserve.decode import StreamReader, stream_error
from openai_server.backends.dialects.base import Call, Explanation, Recognized, Rpc, ServerInputs, Target
from openai_server.backends.dialects.description import TRITON, UNARY_SERVERS, Description, TensorDescription
from openai_server.backends.dialects.guides import with_server_inputs
from openai_server.backends.dialects.inputs import EVERYTHING, fields
from openai_server.core.turn import Prompt, Turn
from protos import contract
from protos.contract import TensorSpec

NAME = "anyserve"
FOREIGN_SERVERS = frozenset({TRITON, *poc.SERVERS, *UNARY_SERVERS})
"""Servers that don't have this project's contract unless a model's tensors say so."""


class AnyServe:
    """`input_names` are the inputs of the model. `described` are its inputs whose datatype or rank differs from the
    contract. `marks_end`: Triton must mark the last response of a stream."""

    name = NAME
    takes_messages = False
    answers_in_events = False
    parameters: Mapping[str, str] = {}

    def __init__(
        self,
        input_names: Container[str] = EVERYTHING,
        rpc: Rpc = Rpc.EITHER,
        described: Mapping[str, TensorDescription] | None = None,
        *,
        marks_end: bool = False,
    ) -> None:
        self.input_names = input_names
        self._rpc = rpc
        self._described = described or {}
        self._marks_end = marks_end

    @property
    def collects(self) -> bool:
        return self._rpc is Rpc.STREAM

    def calls(
        self, turn: Turn, prompts: Sequence[Prompt], target: Target, server_inputs: ServerInputs, *, streams: bool
    ) -> Iterator[Call]:
        """The calls. If there are several prompts, the id of each call ends with the number of its prompt."""
        turn, server_inputs = with_server_inputs(turn, target, server_inputs)
        n = turn.n_returned if streams else turn.n_generated
        reader = partial(StreamReader, n, derives_stop=streams and self._marks_end)
        for k, prompt in enumerate(prompts):
            request = encode.infer_request(
                turn,
                prompt,
                model=target.model,
                request_id=f"{target.id}-{k}" if len(prompts) > 1 else target.id,
                version=target.version,
                input_names=target.input_names,
                server_inputs=server_inputs,
                described=self._described,
            )
            if self._marks_end:
                request.parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
            prompt_input = request.inputs[0].name
            read_whole = None if self.collects else decode.answer
            call = Call(request, n, self._rpc, reader, stream_error, prompt_input, read_whole)
            if streams and self._rpc is Rpc.EITHER:
                call.fallback = partial(Call, request, n, Rpc.UNARY, reader, stream_error, prompt_input)
            yield call

    def fields(self, turn: Turn) -> Mapping[str, str]:
        return fields(turn)

    def explain(self) -> Explanation:
        tensors = (self._described.get(spec.name, spec) for spec in contract.INPUTS if spec.name in self.input_names)
        return Explanation(
            rpc=self._rpc.value,
            inputs={tensor.name: f"tensor {tensor.name} ({tensor.datatype})" for tensor in tensors},
            text=f"tensor {contract.TOKEN.name} or {contract.TEXT.name}",
            end=f"a finish reason, or {contract.PARAM_FINAL}",
            finish_reason=f"tensor {contract.FINISH_REASON.name}",
            counts=f"tensors {contract.PROMPT_TOKENS.name} and {contract.COMPLETION_TOKENS.name}",
            logprobs=f"tensor {contract.LOGPROB.name}",
        )


ANYSERVE = AnyServe()


def recognize(description: Description) -> Recognized | None:
    """The dialect for a model with the contract's prompt and text. A backend without ModelMetadata is assumed to have
    this contract."""
    server, names = description.server, description.input_names
    if server.is_own:
        return Recognized(AnyServe(names or EVERYTHING), "the server has this project's extensions")
    if not description.has_metadata and server.name not in FOREIGN_SERVERS:
        return Recognized(AnyServe(), "the server reports no tensors, so that this project's contract is assumed")
    if not names & _PROMPTS or (description.outputs and not description.output_names & _TEXTS):
        return None
    # Other models have some of these names too, with other manners: see the files in builtin/.
    if not all(_has_kind(tensor, _INPUTS_BY_NAME) for tensor in description.inputs):
        return None
    outputs = [tensor for tensor in description.outputs if tensor.name in _OUTPUTS_BY_NAME]
    if not all(_has_kind(tensor, _OUTPUTS_BY_NAME) for tensor in outputs) or description.required - _PROMPTS:
        return None
    return Recognized(bound(description), "it has the prompt and the text of this project's contract")


def _has_kind(tensor: TensorDescription, specs: Mapping[str, TensorSpec]) -> bool:
    """Whether the tensor is in the contract, with the same kind of elements: texts, booleans, integers or numbers."""
    spec = specs.get(tensor.name)
    return spec is not None and (not tensor.datatype or _kind(tensor.datatype) == _kind(spec.datatype))


def _kind(datatype: str) -> str:
    return datatype.removeprefix("U").rstrip("0123456789")


def bound(description: Description) -> AnyServe:
    """The dialect for the model, with its datatypes and ranks."""
    described = {
        tensor.name: tensor
        for tensor in description.inputs
        if (spec := _INPUTS_BY_NAME.get(tensor.name)) is not None
        and (tensor.datatype or spec.datatype, len(tensor.shape) or 1) != (spec.datatype, 1)
    }
    marks_end = description.server.name == TRITON and description.is_decoupled is not False
    return AnyServe(description.input_names or EVERYTHING, _rpc(description), described, marks_end=marks_end)


def _rpc(description: Description) -> Rpc:
    if description.server.name in UNARY_SERVERS:
        return Rpc.UNARY
    return Rpc.STREAM if description.needs_streams else Rpc.EITHER


_INPUTS_BY_NAME = {spec.name: spec for spec in contract.INPUTS}
_OUTPUTS_BY_NAME = {spec.name: spec for spec in contract.OUTPUTS}
_PROMPTS = frozenset({contract.PROMPT.name, contract.PROMPT_TOKEN_IDS.name})
_TEXTS = frozenset({contract.TEXT.name, contract.TOKEN.name})
