"""Reads a generation request from its tensors. PURE.

Every value is checked here or by the contract's table.
"""

import math
from array import array
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from anyserve_common.text import shortened
from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.core.spans import Spans
from anyserve_worker.sampling.breakers import MAX_BREAKER_BYTES
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest

MAX_STOP_LENGTH = 1000
"""Characters. Each stop string is searched for at every token."""
MAX_SPANS = 1 << 16
"""Plain spans of a prompt. Reading that many takes 10 ms."""


def names_capability(message: ModelInferRequest, *capabilities: str) -> bool:
    """Returns whether the request names one of these capabilities instead of a model, as in AnyServe's protocol."""
    return message.model_version == contract.ANYSERVE_VERSION and message.model_name in capabilities


def read_inputs(message: ModelInferRequest, specs: Iterable[TensorSpec]) -> dict[str, tensors.Tensor]:
    """Returns the inputs by name, checked against `specs`. Raises InvalidRequest, which names the tensor."""
    try:
        inputs = tensors.read_inputs(message)
    except tensors.TensorError as error:
        raise InvalidRequest(str(error), tensor=error.tensor) from error
    spec_by_name = {spec.name: spec for spec in specs}
    for tensor in inputs.values():
        if tensor.name not in spec_by_name:
            raise InvalidRequest(f"tensor '{shortened(tensor.name)}': not an input of this model", tensor=tensor.name)
        _check(spec_by_name[tensor.name], tensor)
    return inputs


def parse(message: ModelInferRequest) -> GenerationRequest:
    """Reads a generation request. Raises InvalidRequest, which names the tensor."""
    inputs = read_inputs(message, contract.INPUTS)

    return GenerationRequest(
        prompt=(prompt := prompt_of(inputs)),
        plain=plain_spans(inputs, prompt),
        max_tokens=scalar(inputs, contract.MAX_TOKENS, None),
        n=scalar(inputs, contract.N, 1),
        stop=_strings(inputs, contract.STOP) or (),
        include_stop=scalar(inputs, contract.INCLUDE_STOP, False),
        echo=scalar(inputs, contract.ECHO, False),
        suffix=_suffix(inputs),
        skip_special_tokens=scalar(inputs, contract.SKIP_SPECIAL_TOKENS, True),
        guide=_guide(inputs),
        mark_begin=(_strings(inputs, contract.MARK_BEGIN) or ("",))[0],
        mark_end=_strings(inputs, contract.MARK_END) or (),
        max_marked_tokens=_max_marked_tokens(inputs),
        sampling=_sampling(inputs),
        timeout=timeout_of(message),
        caller=caller_of(message),
        priority=scalar(inputs, contract.PRIORITY, 0),
        timings=scalar(inputs, contract.TIMINGS, False),
        prompt_progress=scalar(inputs, contract.PROMPT_PROGRESS, False),
    )


_SCALARS = (
    contract.TEMPERATURE,
    contract.TOP_P,
    contract.TOP_K,
    contract.MIN_P,
    contract.TYPICAL_P,
    contract.TOP_N_SIGMA,
    contract.PRESENCE_PENALTY,
    contract.FREQUENCY_PENALTY,
    contract.REPETITION_PENALTY,
    contract.REPEAT_LAST_N,
    contract.XTC_PROBABILITY,
    contract.XTC_THRESHOLD,
    contract.DRY_MULTIPLIER,
    contract.DRY_BASE,
    contract.DRY_ALLOWED_LENGTH,
    contract.DRY_PENALTY_LAST_N,
    contract.MIROSTAT,
    contract.MIROSTAT_TAU,
    contract.MIROSTAT_ETA,
    contract.MIN_TOKENS,
    contract.IGNORE_EOS,
    contract.LOGPROBS,
    contract.SEED,
)
"""Tensors whose single element is passed to SamplingParameters unchanged."""


def _sampling(inputs: dict[str, tensors.Tensor]) -> SamplingParameters:
    params: dict[str, Any] = {spec.name: inputs[spec.name].elements[0] for spec in _SCALARS if spec.name in inputs}
    breakers = _strings(inputs, contract.DRY_SEQUENCE_BREAKERS)
    if breakers is not None:
        if any(len(text.encode()) > MAX_BREAKER_BYTES or "\0" in text for text in breakers):
            raise tensor_error(
                contract.DRY_SEQUENCE_BREAKERS, f"each string must have 1 to {MAX_BREAKER_BYTES} bytes, none of them 0"
            )
        params["dry_sequence_breakers"] = breakers
    stop_token_ids = _at_most(inputs, contract.STOP_TOKEN_IDS, contract.MAX_TOKEN_LIST)
    return SamplingParameters(**params, logit_bias=_logit_bias(inputs), stop_token_ids=frozenset(stop_token_ids))


def _logit_bias(inputs: dict[str, tensors.Tensor]) -> tuple[tuple[int, float], ...]:
    ids = _at_most(inputs, contract.LOGIT_BIAS_TOKEN_IDS, contract.MAX_LOGIT_BIAS)
    biases = _at_most(inputs, contract.LOGIT_BIAS, contract.MAX_LOGIT_BIAS)
    if len(ids) != len(biases):
        raise tensor_error(contract.LOGIT_BIAS, f"{len(biases)} elements for {len(ids)} tokens")
    return tuple(zip(ids, biases, strict=True))


def _guide(inputs: dict[str, tensors.Tensor]) -> Guide | None:
    lenient = scalar(inputs, contract.LENIENT_SCHEMA, False)
    if lenient and contract.JSON_SCHEMA.name not in inputs:
        raise tensor_error(contract.LENIENT_SCHEMA, f"requires '{contract.JSON_SCHEMA.name}'")
    specs = [spec for spec in contract.GUIDES if spec.name in inputs]
    if not specs:
        return None
    if len(specs) > 1:
        raise tensor_error(specs[1], f"cannot be combined with '{specs[0].name}'")
    return Guide(specs[0], utf8(specs[0], inputs[specs[0].name].elements[0]), lenient)


def _max_marked_tokens(inputs: dict[str, tensors.Tensor]) -> int | None:
    spec = contract.MAX_MARKED_TOKENS
    if spec.name in inputs and not (contract.MARK_END.name in inputs and inputs[contract.MARK_END.name].elements):
        raise tensor_error(spec, f"requires '{contract.MARK_END.name}'")
    max_tokens: int | None = scalar(inputs, spec, None)
    return max_tokens


def _suffix(inputs: dict[str, tensors.Tensor]) -> str | None:
    spec = contract.SUFFIX
    if spec.name not in inputs:
        return None
    for other in (contract.PROMPT_TOKEN_IDS, contract.ECHO):
        if other.name in inputs and (other is not contract.ECHO or inputs[other.name].elements[0]):
            raise tensor_error(spec, f"cannot be combined with '{other.name}'")
    return utf8(spec, inputs[spec.name].elements[0])


# ---- Single tensors


def scalar(inputs: dict[str, tensors.Tensor], spec: TensorSpec, default: Any) -> Any:
    return inputs[spec.name].elements[0] if spec.name in inputs else default


def _at_most(inputs: dict[str, tensors.Tensor], spec: TensorSpec, max_elements: int) -> Sequence[Any]:
    """Returns the tensor's elements; empty if it is absent. Raises InvalidRequest above `max_elements`."""
    if spec.name not in inputs:
        return ()
    elements = inputs[spec.name].elements
    if len(elements) > max_elements:
        raise tensor_error(spec, f"{len(elements)} elements, at most {max_elements}")
    return elements


def _strings(inputs: dict[str, tensors.Tensor], spec: TensorSpec) -> tuple[str, ...] | None:
    """Returns the tensor's strings; None if it is absent. Raises InvalidRequest."""
    if spec.name not in inputs:
        return None
    strings = tuple(utf8(spec, element) for element in _at_most(inputs, spec, contract.MAX_STOP_STRINGS))
    if not all(0 < len(text) <= MAX_STOP_LENGTH for text in strings):
        raise tensor_error(spec, f"each string must have 1 to {MAX_STOP_LENGTH} characters")
    return strings


def tensor_error(spec: TensorSpec, problem: str) -> InvalidRequest:
    return InvalidRequest(f"tensor '{spec.name}': {problem}", tensor=spec.name)


def _check(spec: TensorSpec, tensor: tensors.Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise tensor_error(spec, f"datatype is {tensor.datatype}, must be {spec.datatype}")
    if not spec.accepts_shape(tensor.shape):
        raise tensor_error(spec, f"shape is {list(tensor.shape)}, must be {list(spec.shape)}")
    if spec.datatype in (tensors.BYTES, "BOOL"):
        return
    if spec.datatype == "FP32" and len(tensor.elements) > tensors.MIN_ARRAY_ELEMENTS:  # each element is checked below
        raise tensor_error(spec, f"{len(tensor.elements)} elements, at most {contract.MAX_LOGIT_BIAS}")
    # A prompt may have a million ids, so only the smallest and the largest integer are checked.
    for value in tensor.elements if spec.datatype == "FP32" else _extremes(tensor.elements):
        if not math.isfinite(value):
            raise tensor_error(spec, f"{value} is not a finite number")
        # FP32 stores 0.01 as 0.00999…, so bounds apply within its precision.
        slack = 1e-6 if spec.datatype == "FP32" else 0
        if (spec.low is not None and value < spec.low - slack) or (spec.high is not None and value > spec.high + slack):
            raise tensor_error(
                spec, f"{value:g} is out of range [{_bound(spec.low, '-inf')}, {_bound(spec.high, 'inf')}]"
            )


def _extremes(elements: Sequence[Any]) -> tuple[Any, ...]:
    if isinstance(elements, array):
        numbers = np.frombuffer(elements, np.int32)
        return int(numbers.min()), int(numbers.max())
    return (min(elements), max(elements)) if elements else ()


def _bound(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:g}"


def utf8(spec: TensorSpec, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise tensor_error(spec, f"not UTF-8 ({error})") from error


def prompt_of(inputs: dict[str, tensors.Tensor]) -> str | Sequence[int]:
    text, token_ids = inputs.get(contract.PROMPT.name), inputs.get(contract.PROMPT_TOKEN_IDS.name)
    if (text is None) == (token_ids is None):
        raise tensor_error(contract.PROMPT, "missing" if text is None else "cannot be combined with 'prompt_token_ids'")
    if text is not None:
        return utf8(contract.PROMPT, text.elements[0])
    assert token_ids is not None
    if not token_ids.elements:
        raise tensor_error(contract.PROMPT_TOKEN_IDS, "empty")
    return token_ids.elements


def plain_spans(inputs: dict[str, tensors.Tensor], prompt: str | Sequence[int]) -> Spans:
    """Returns the spans in characters; the tensor has offsets in bytes. Raises InvalidRequest."""
    spec = contract.PLAIN_SPANS
    if spec.name not in inputs:
        return ()
    if not isinstance(prompt, str):
        raise tensor_error(spec, f"cannot be combined with '{contract.PROMPT_TOKEN_IDS.name}'")
    offsets = np.array(_at_most(inputs, spec, MAX_SPANS * 2), np.int64)
    if len(offsets) % 2:
        raise tensor_error(spec, f"{len(offsets)} elements, must be pairs of start and end")
    distances = np.diff(offsets)
    if (distances < 0).any() or (distances[::2] == 0).any():
        raise tensor_error(spec, "the spans must be ascending, not empty and not overlapping")
    data = prompt.encode()
    if len(offsets) and offsets[-1] > len(data):
        raise tensor_error(spec, f"{offsets[-1]} is beyond the end of the prompt, which has {len(data)} bytes")
    characters = offsets.tolist() if prompt.isascii() else _characters(data, offsets)
    return tuple(zip(characters[::2], characters[1::2], strict=True))


def _characters(data: bytes, offsets: npt.NDArray[np.int64]) -> list[int]:
    """Converts byte offsets in UTF-8 to character offsets. Raises InvalidRequest for one within a character."""
    is_first_byte = np.append((np.frombuffer(data, np.uint8) & 0xC0) != 0x80, True)  # of a character
    if not is_first_byte[offsets].all():
        raise tensor_error(
            contract.PLAIN_SPANS, f"{offsets[~is_first_byte[offsets]][0]} is in the middle of a character"
        )
    characters: list[int] = (np.cumsum(is_first_byte, dtype=np.int32)[offsets] - 1).tolist()
    return characters


def timeout_of(message: ModelInferRequest) -> float | None:
    """Returns the timeout in seconds; None if it is absent or 0. Raises InvalidRequest."""
    parameter = message.parameters.get(contract.PARAM_TIMEOUT)
    if parameter is None:
        return None
    kind = parameter.WhichOneof("parameter_choice")
    micros = getattr(parameter, kind) if kind in ("int64_param", "uint64_param") else -1
    if micros < 0:
        raise InvalidRequest(f"parameter '{contract.PARAM_TIMEOUT}': must be whole microseconds, 0 for no limit")
    return micros / 1e6 or None


def caller_of(message: ModelInferRequest) -> str:
    """Returns the name of the caller; empty if it is absent. Raises InvalidRequest."""
    parameter = message.parameters.get(contract.PARAM_CALLER)
    if parameter is None:
        return ""
    if parameter.WhichOneof("parameter_choice") != "string_param" or len(parameter.string_param) > contract.MAX_CALLER:
        raise InvalidRequest(
            f"parameter '{contract.PARAM_CALLER}': must be a string of at most {contract.MAX_CALLER} characters"
        )
    return str(parameter.string_param)
