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
MAX_BREAKER_BYTES = 40
"""Of a DRY sequence breaker: llama.cpp would cut off what is longer."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Ranges and meanings: the contract's input table. A field has the name of its tensor."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    typical_p: float = 1.0
    top_n_sigma: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    repeat_last_n: int = -1
    xtc_probability: float = 0.0
    xtc_threshold: float = 0.1
    dry_multiplier: float = 0.0
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    mirostat: int = 0
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token, what is added to its logit)."""
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: frozenset[int] = frozenset()
    logprobs: int | None = None
    """How many of the likeliest tokens are told with each token; None: no log probabilities at all."""
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Guide:
    """What the text has to match: `tensor` says in which language `source` is written."""

    tensor: TensorSpec
    source: str


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token of the text and ln p of it; `top` are the likeliest ones in its place, likeliest first.

    `logprob` is NaN for the first token of a prompt, which nothing precedes.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """`prompt` is text, or token ids to be used as they are. `max_tokens` None: until the context is full."""

    prompt: str | Sequence[int]
    max_tokens: int | None = None
    n: int = 1
    stop: tuple[str, ...] = ()
    echo: bool = False
    suffix: str | None = None
    skip_special_tokens: bool = True
    guide: Guide | None = None
    mark_begin: str = ""
    mark_end: tuple[str, ...] = ()
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
    logprobs: tuple[TokenLogprob, ...] = ()
    marked_tokens: int | None = None
    """None: there is no mark."""


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

    return GenerationRequest(
        prompt=prompt_of(given),
        max_tokens=_scalar(given, contract.MAX_TOKENS, None),
        n=_scalar(given, contract.N, 1),
        stop=_strings(given, contract.STOP) or (),
        echo=_scalar(given, contract.ECHO, False),
        suffix=_suffix(given),
        skip_special_tokens=_scalar(given, contract.SKIP_SPECIAL_TOKENS, True),
        guide=_guide(given),
        mark_begin=(_strings(given, contract.MARK_BEGIN) or ("",))[0],
        mark_end=_strings(given, contract.MARK_END) or (),
        sampling=_sampling(given),
        timeout=timeout_of(message),
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
"""What SamplingParams takes as it is."""


def _sampling(given: dict[str, tensors.Tensor]) -> SamplingParams:
    params: dict[str, Any] = {spec.name: given[spec.name].elements[0] for spec in _SCALARS if spec.name in given}
    breakers = _strings(given, contract.DRY_SEQUENCE_BREAKERS)
    if breakers is not None:
        if any(len(text.encode()) > MAX_BREAKER_BYTES or "\0" in text for text in breakers):
            raise _refuse(
                contract.DRY_SEQUENCE_BREAKERS, f"each string must have 1 to {MAX_BREAKER_BYTES} bytes, none of them 0"
            )
        params["dry_sequence_breakers"] = breakers
    stop_token_ids = _at_most(given, contract.STOP_TOKEN_IDS, contract.MAX_TOKEN_LIST)
    return SamplingParams(**params, logit_bias=_logit_bias(given), stop_token_ids=frozenset(stop_token_ids))


def _logit_bias(given: dict[str, tensors.Tensor]) -> tuple[tuple[int, float], ...]:
    ids = _at_most(given, contract.LOGIT_BIAS_TOKEN_IDS, contract.MAX_LOGIT_BIAS)
    biases = _at_most(given, contract.LOGIT_BIAS, contract.MAX_LOGIT_BIAS)
    if len(ids) != len(biases):
        raise _refuse(contract.LOGIT_BIAS, f"{len(biases)} elements for {len(ids)} tokens")
    return tuple(zip(ids, biases, strict=True))


def _guide(given: dict[str, tensors.Tensor]) -> Guide | None:
    specs = [spec for spec in contract.GUIDES if spec.name in given]
    if not specs:
        return None
    if len(specs) > 1:
        raise _refuse(specs[1], f"given together with '{specs[0].name}'")
    return Guide(specs[0], utf8(specs[0], given[specs[0].name].elements[0]))


def _suffix(given: dict[str, tensors.Tensor]) -> str | None:
    spec = contract.SUFFIX
    if spec.name not in given:
        return None
    for other in (contract.PROMPT_TOKEN_IDS, contract.ECHO):
        if other.name in given and (other is not contract.ECHO or given[other.name].elements[0]):
            raise _refuse(spec, f"given together with '{other.name}'")
    return utf8(spec, given[spec.name].elements[0])


# ---- Single tensors


def _scalar(given: dict[str, tensors.Tensor], spec: TensorSpec, default: Any) -> Any:
    return given[spec.name].elements[0] if spec.name in given else default


def _at_most(given: dict[str, tensors.Tensor], spec: TensorSpec, most: int) -> Sequence[Any]:
    """Its elements, none if it is absent."""
    if spec.name not in given:
        return ()
    elements = given[spec.name].elements
    if len(elements) > most:
        raise _refuse(spec, f"{len(elements)} elements, at most {most}")
    return elements


def _strings(given: dict[str, tensors.Tensor], spec: TensorSpec) -> tuple[str, ...] | None:
    """None if it is absent."""
    if spec.name not in given:
        return None
    strings = tuple(utf8(spec, element) for element in _at_most(given, spec, contract.MAX_STOP_STRINGS))
    if not all(0 < len(text) <= MAX_STOP_LENGTH for text in strings):
        raise _refuse(spec, f"each string must have 1 to {MAX_STOP_LENGTH} characters")
    return strings


def _refuse(spec: TensorSpec, problem: str) -> InvalidRequest:
    return InvalidRequest(f"tensor '{spec.name}': {problem}", tensor=spec.name)


def _check(spec: TensorSpec, tensor: tensors.Tensor) -> None:
    if tensor.datatype != spec.datatype:
        raise _refuse(spec, f"datatype is {tensor.datatype}, must be {spec.datatype}")
    if not spec.accepts_shape(tensor.shape):
        raise _refuse(spec, f"shape is {list(tensor.shape)}, must be {list(spec.shape)}")
    if spec.datatype in (tensors.BYTES, "BOOL"):
        return
    # Of integers the extremes stand for all: a prompt may have a million ids.
    for value in tensor.elements if spec.datatype == "FP32" else _extremes(tensor.elements):
        if not math.isfinite(value):
            raise _refuse(spec, f"{value} is not a finite number")
        # FP32 carries 0.01 as 0.00999…: bounds are meant to within its precision.
        slack = 1e-6 if spec.datatype == "FP32" else 0
        if (spec.low is not None and value < spec.low - slack) or (spec.high is not None and value > spec.high + slack):
            raise _refuse(spec, f"{value:g} is out of range [{_bound(spec.low, '-inf')}, {_bound(spec.high, 'inf')}]")


def _extremes(elements: Sequence[Any]) -> tuple[Any, ...]:
    return (min(elements), max(elements)) if elements else ()


def _bound(value: float | None, unbounded: str) -> str:
    return unbounded if value is None else f"{value:g}"


def utf8(spec: TensorSpec, element: bytes) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise _refuse(spec, f"not UTF-8 ({error})") from error


def prompt_of(given: dict[str, tensors.Tensor]) -> str | Sequence[int]:
    text, token_ids = given.get(contract.PROMPT.name), given.get(contract.PROMPT_TOKEN_IDS.name)
    if (text is None) == (token_ids is None):
        raise _refuse(contract.PROMPT, "missing" if text is None else "given together with 'prompt_token_ids'")
    if text is not None:
        return utf8(contract.PROMPT, text.elements[0])
    assert token_ids is not None
    if not token_ids.elements:
        raise _refuse(contract.PROMPT_TOKEN_IDS, "empty")
    return token_ids.elements


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
                *_logprobs(choices),
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
            outputs += _logprobs(choices)
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
    if len(parts) == 1:
        return parts[0]
    logprobs = tuple(logprob for part in parts for logprob in part.logprobs)
    return replace(parts[-1], text="".join(part.text for part in parts), logprobs=logprobs)


def _counts(choices: list[Delta]) -> list[tuple[TensorSpec, tensors.Elements]]:
    return [
        (contract.PROMPT_TOKENS, [choices[0].prompt_tokens]),
        (contract.CACHED_TOKENS, [choices[0].cached_tokens]),
        (contract.COMPLETION_TOKENS, [choice.completion_tokens for choice in choices]),
    ] + (
        [(contract.MARKED_TOKENS, [choice.marked_tokens for choice in choices])]
        if choices[0].marked_tokens is not None
        else []
    )


def _logprobs(choices: list[Delta]) -> list[tuple[TensorSpec, tensors.Elements]]:
    """Nothing if there are none."""
    told = [(choice.index, logprob) for choice in choices for logprob in choice.logprobs]
    if not told:
        return []
    n_top = max(len(logprob.top) for _, logprob in told)
    tops = [(*logprob.top, *[NO_TOP] * (n_top - len(logprob.top))) for _, logprob in told]
    return [
        (contract.LOGPROB_INDEX, [index for index, _ in told]),
        (contract.LOGPROB_TOKEN, [logprob.token for _, logprob in told]),
        (contract.LOGPROB, [logprob.logprob for _, logprob in told]),
        (contract.TOP_LOGPROB_TOKEN, [token for top in tops for token, _ in top]),
        (contract.TOP_LOGPROB, [logprob for top in tops for _, logprob in top]),
    ]


NO_TOP = (b"", math.nan)
"""Where nothing precedes a token."""
