"""Tensors to a generation request, and what was generated to tensors. PURE.

Every check of a value stands here or in the contract's table; the engine trusts what it gets.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from anyserve_worker.errors import InvalidRequest
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

MAX_STOP_LENGTH = 1000
"""Characters. A stop string is compared at every token."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Ranges and meanings: the contract's input table."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`prompt` is text, or token ids to be used as they are. `max_tokens` None: until the context is full."""

    prompt: str | Sequence[int]
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    sampling: SamplingParams = field(default_factory=SamplingParams)
    timeout: float | None = None
    """Seconds from arrival."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What one step added to one choice. Counts are totals so far."""

    index: int
    text: str
    finish_reason: str | None
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int


def addresses(message: ModelInferRequest, *capabilities: str) -> bool:
    """Whether the model is named in AnyServe's manner, as one of these."""
    return message.model_version == contract.ANYSERVE_VERSION and message.model_name in capabilities


def read(message: ModelInferRequest, specs: Iterable[TensorSpec]) -> dict[str, tensors.Tensor]:
    """The inputs by name, each as its specification wants it. Raises InvalidRequest, naming the tensor."""
    try:
        given = tensors.read_inputs(message)
    except tensors.TensorError as error:
        raise InvalidRequest(str(error), tensor=error.tensor) from error
    known = {spec.name: spec for spec in specs}
    for tensor in given.values():
        if tensor.name not in known:
            raise InvalidRequest(f"tensor '{tensor.name}': not an input of this model", tensor=tensor.name)
        _check(known[tensor.name], tensor)
    return given


def parse(message: ModelInferRequest) -> GenerationRequest:
    """Raises InvalidRequest, naming the tensor."""
    given = read(message, contract.INPUTS)

    def scalar(spec: TensorSpec, default: Any) -> Any:
        return given[spec.name].elements[0] if spec.name in given else default

    return GenerationRequest(
        prompt=prompt_of(given),
        max_tokens=scalar(contract.MAX_TOKENS, None),
        n=scalar(contract.N, 1),
        stop=_stop(given),
        sampling=SamplingParams(
            temperature=scalar(contract.TEMPERATURE, 1.0),
            top_p=scalar(contract.TOP_P, 1.0),
            top_k=scalar(contract.TOP_K, 0),
            min_p=scalar(contract.MIN_P, 0.0),
            presence_penalty=scalar(contract.PRESENCE_PENALTY, 0.0),
            frequency_penalty=scalar(contract.FREQUENCY_PENALTY, 0.0),
            repetition_penalty=scalar(contract.REPETITION_PENALTY, 1.0),
            seed=scalar(contract.SEED, None),
        ),
        timeout=timeout_of(message),
    )


def _check(spec: TensorSpec, tensor: tensors.Tensor) -> None:
    def refuse(problem: str) -> InvalidRequest:
        return InvalidRequest(f"tensor '{spec.name}': {problem}", tensor=spec.name)

    if tensor.datatype != spec.datatype:
        raise refuse(f"datatype is {tensor.datatype}, must be {spec.datatype}")
    if not spec.accepts_shape(tensor.shape):
        raise refuse(f"shape is {list(tensor.shape)}, must be {list(spec.shape)}")
    if spec.datatype == tensors.BYTES:
        return
    # Of integers the extremes stand for all: a prompt may have a million ids.
    for value in tensor.elements if spec.datatype == "FP32" else _extremes(tensor.elements):
        if not math.isfinite(value):
            raise refuse(f"{value} is not a finite number")
        # FP32 carries 0.01 as 0.00999…: bounds are meant to within its precision.
        slack = 1e-6 if spec.datatype == "FP32" else 0
        if (spec.low is not None and value < spec.low - slack) or (spec.high is not None and value > spec.high + slack):
            raise refuse(f"{value:g} is out of range [{_bound(spec.low, '-inf')}, {_bound(spec.high, 'inf')}]")


def _extremes(elements: Sequence[Any]) -> tuple[Any, ...]:
    return (min(elements), max(elements)) if elements else ()


def _bound(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:g}"


def utf8(spec: TensorSpec, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"tensor '{spec.name}': not UTF-8 ({error})", tensor=spec.name) from error


def prompt_of(given: dict[str, tensors.Tensor]) -> str | Sequence[int]:
    text, token_ids = given.get(contract.PROMPT.name), given.get(contract.PROMPT_TOKEN_IDS.name)
    if (text is None) == (token_ids is None):
        problem = "missing" if text is None else "given together with 'prompt_token_ids'"
        raise InvalidRequest(f"tensor '{contract.PROMPT.name}': {problem}", tensor=contract.PROMPT.name)
    if text is not None:
        return utf8(contract.PROMPT, text.elements[0])
    assert token_ids is not None
    if not token_ids.elements:
        name = contract.PROMPT_TOKEN_IDS.name
        raise InvalidRequest(f"tensor '{name}': empty", tensor=name)
    return token_ids.elements


def _stop(given: dict[str, tensors.Tensor]) -> tuple[str, ...]:
    spec = contract.STOP
    if spec.name not in given:
        return ()
    elements = given[spec.name].elements
    if len(elements) > contract.MAX_STOP_STRINGS:
        raise InvalidRequest(
            f"tensor '{spec.name}': {len(elements)} strings, at most {contract.MAX_STOP_STRINGS}", tensor=spec.name
        )
    stop = tuple(utf8(spec, element) for element in elements)
    if not all(0 < len(text) <= MAX_STOP_LENGTH for text in stop):
        raise InvalidRequest(
            f"tensor '{spec.name}': each string must have 1 to {MAX_STOP_LENGTH} characters", tensor=spec.name
        )
    return stop


def timeout_of(message: ModelInferRequest) -> float | None:
    parameter = message.parameters.get(contract.PARAM_TIMEOUT)
    if parameter is None:
        return None
    kind = parameter.WhichOneof("parameter_choice")
    micros = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if micros < 0:
        raise InvalidRequest(f"parameter '{contract.PARAM_TIMEOUT}': must be whole microseconds, 0 for no limit")
    return micros / 1e6 or None


# ---- Back to tensors


class Responder:
    """Builds the responses to one request: its id, its form of the wire, and the outputs that it asked for."""

    def __init__(self, message: ModelInferRequest, model: str, produced: tuple[TensorSpec, ...]) -> None:
        """`model`: the served model's name. `produced`: all outputs of this call. Raises InvalidRequest."""
        self._message = message
        self._model = model
        self._raw = tensors.is_raw(message)
        wanted = {output.name for output in message.outputs}
        unknown = wanted - {spec.name for spec in produced}
        if unknown:
            raise InvalidRequest(f"output '{min(unknown)}': not produced by this call")
        self._wanted = wanted or {spec.name for spec in produced}

    def unary(self, deltas: Iterable[Delta]) -> ModelInferResponse:
        """The whole answer of a request, from all of its deltas."""
        choices = merge(deltas)
        return self.build(
            [
                (contract.TEXT, [choice.text.encode() for choice in choices]),
                (contract.FINISH_REASON, [(choice.finish_reason or "").encode() for choice in choices]),
                (contract.MODEL, [self._model.encode()]),
                *_counts(choices),
            ]
        )

    def stream(self, choices: list[Delta], *, final: bool) -> ModelInferResponse:
        """One response of a stream, for the choices that moved; counts come with a choice's end."""
        outputs: list[tuple[TensorSpec, tensors.Elements]] = []
        if choices:
            outputs = [
                (contract.TOKEN, [choice.text.encode() for choice in choices]),
                (contract.INDEX, [choice.index for choice in choices]),
                (
                    contract.FINISH_REASON,
                    [(choice.finish_reason or contract.NOT_FINISHED).encode() for choice in choices],
                ),
            ]
            if any(choice.finish_reason for choice in choices):
                outputs += _counts(choices)
        response = self.build(outputs)
        response.parameters[contract.PARAM_FINAL].bool_param = final
        return response

    def build(self, outputs: Iterable[tuple[TensorSpec, tensors.Elements]]) -> ModelInferResponse:
        response = ModelInferResponse(
            model_name=self._message.model_name, model_version=self._message.model_version or "1", id=self._message.id
        )
        for spec, elements in outputs:
            if spec.name in self._wanted:
                tensors.add_output(response, spec, elements, raw=self._raw)
        return response


def merge(deltas: Iterable[Delta]) -> list[Delta]:
    """One delta a choice, in the order of their indexes."""
    by_index: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [joined(parts) for _, parts in sorted(by_index.items())]


def joined(parts: Sequence[Delta]) -> Delta:
    """Deltas of one choice, in order, as one."""
    return parts[0] if len(parts) == 1 else replace(parts[-1], text="".join(part.text for part in parts))


def _counts(choices: list[Delta]) -> list[tuple[TensorSpec, tensors.Elements]]:
    return [
        (contract.PROMPT_TOKENS, [choices[0].prompt_tokens]),
        (contract.CACHED_TOKENS, [choices[0].cached_tokens]),
        (contract.COMPLETION_TOKENS, [choice.completion_tokens for choice in choices]),
    ]
