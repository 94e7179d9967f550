"""The inputs of the contract that a turn sets: the table of its fields, which all dialects use. PURE."""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec.structs import astuple

from openai_server.core import guide_parts
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.turn import Sampling, Turn
from protos import contract
from protos.contract import TensorSpec


@dataclass(frozen=True, slots=True)
class InputRow:
    """How one field of a turn becomes a tensor."""

    field: str
    """Name of the attribute of the turn, its sampling or its guide."""
    tensor: TensorSpec
    off: float | None = None
    """The value that has the same effect as no tensor; None if there is none."""
    elements: Callable[[Any], Sequence[Any]] | None = None
    """Converts the field to tensor elements (default: one element). Empty means: don't send the tensor."""


def source(value: str | Mapping[str, Any]) -> Sequence[bytes]:
    """Text as it is, an object as JSON."""
    return [value.encode() if isinstance(value, str) else orjson.dumps(value)]


def _texts(texts: Sequence[str]) -> Sequence[bytes]:
    return [text.encode() for text in texts]


def _number(value: float) -> Sequence[Any]:
    """-1 means off, as 0 does."""
    return (max(value, 0),)


_SAMPLING = (
    InputRow("temperature", contract.TEMPERATURE, off=1),
    InputRow("top_p", contract.TOP_P, off=1),
    InputRow("top_k", contract.TOP_K, off=0, elements=_number),
    InputRow("min_p", contract.MIN_P, off=0),
    InputRow("typical_p", contract.TYPICAL_P, off=1),
    InputRow("top_n_sigma", contract.TOP_N_SIGMA, off=0, elements=_number),
    InputRow("presence_penalty", contract.PRESENCE_PENALTY, off=0),
    InputRow("frequency_penalty", contract.FREQUENCY_PENALTY, off=0),
    InputRow("repetition_penalty", contract.REPETITION_PENALTY, off=1),
    InputRow("repeat_last_n", contract.REPEAT_LAST_N, off=-1),
    InputRow("xtc_probability", contract.XTC_PROBABILITY, off=0),
    InputRow("xtc_threshold", contract.XTC_THRESHOLD),
    InputRow("dry_multiplier", contract.DRY_MULTIPLIER, off=0),
    InputRow("dry_base", contract.DRY_BASE),
    InputRow("dry_allowed_length", contract.DRY_ALLOWED_LENGTH),
    InputRow("dry_penalty_last_n", contract.DRY_PENALTY_LAST_N, off=-1),
    InputRow("dry_sequence_breakers", contract.DRY_SEQUENCE_BREAKERS, elements=_texts),
    InputRow("mirostat", contract.MIROSTAT, off=0),
    InputRow("mirostat_tau", contract.MIROSTAT_TAU),
    InputRow("mirostat_eta", contract.MIROSTAT_ETA),
    InputRow("logit_bias", contract.LOGIT_BIAS_TOKEN_IDS, elements=lambda biases: [int(token) for token in biases]),
    InputRow("stop", contract.STOP, elements=_texts),
    InputRow("stop_token_ids", contract.STOP_TOKEN_IDS, elements=lambda ids: ids),
    InputRow("min_tokens", contract.MIN_TOKENS, off=0),
    InputRow("ignore_eos", contract.IGNORE_EOS, off=False),
    InputRow("skip_special_tokens", contract.SKIP_SPECIAL_TOKENS, off=True),
    InputRow("seed", contract.SEED, elements=lambda seed: (fold_seed(seed),)),
    InputRow("priority", contract.PRIORITY, off=0),
)
assert tuple(row.field for row in _SAMPLING) == Sampling.__struct_fields__
INPUT_ROWS = (
    InputRow("token_limit", contract.MAX_TOKENS),
    *_SAMPLING,
    InputRow("logit_bias", contract.LOGIT_BIAS, elements=lambda biases: list(biases.values())),
    InputRow("json_schema", contract.JSON_SCHEMA, elements=source),
    InputRow("regex", contract.REGEX, elements=source),
    InputRow("grammar", contract.GRAMMAR, elements=source),
    InputRow("lark", contract.LARK, elements=source),
    InputRow("top_logprobs", contract.LOGPROBS),
    InputRow("n_to_send", contract.N, off=1),
    InputRow("timings", contract.TIMINGS, off=False),
    InputRow("progress", contract.PROMPT_PROGRESS, off=False),
    # Only for completions.
    InputRow("echo", contract.ECHO, off=False),
    InputRow("suffix", contract.SUFFIX, elements=source),
)
"""A field that is None is not sent."""


def values_of(turn: Turn) -> tuple[Any, ...]:
    """The values for INPUT_ROWS, in the same order."""
    sampling, guide = turn.sampling, turn.guide
    return (
        turn.token_limit,
        *astuple(sampling),
        sampling.logit_bias,
        guide.json_schema,
        guide.regex,
        guide.grammar,
        guide.lark,
        turn.top_logprobs,
        turn.n_to_send,
        turn.timings,
        turn.progress,
        turn.echo,
        turn.suffix,
    )


def is_omittable(row: InputRow, values: Sequence[Any], turn: Turn) -> bool:
    """Whether a backend without an input for the field does what the client wants anyway."""
    return list(values) == [row.off] or (row.field == "token_limit" and turn.has_default_limit)


def unsupported(field: str, model: str) -> UnsupportedParameter:
    """The error for a field that the model has no input for."""
    return UnsupportedParameter(field, f"The model '{model}' does not support '{field}'.")


SERVER_INPUTS = (
    contract.INCLUDE_STOP,
    contract.LENIENT_SCHEMA,
    contract.MARK_BEGIN,
    contract.MARK_END,
    contract.MAX_MARKED_TOKENS,
    contract.PLAIN_SPANS,
)
"""Tensors that no field of a client's request sets directly."""


def fields(turn: Turn) -> dict[str, str]:
    """Name of a tensor, or of a part of a guide → the client's field that it came from, for errors."""
    names = {row.tensor.name: turn.name(row.field) for row in INPUT_ROWS}
    guide = turn.guide.field
    for spec in (contract.LARK, *SERVER_INPUTS):
        names[spec.name] = guide or turn.name("tools")
    names[contract.INCLUDE_STOP.name] = turn.name("stop")
    for spec in (contract.PROMPT, contract.PROMPT_TOKEN_IDS, contract.PLAIN_SPANS):
        names[spec.name] = turn.name("prompt")
    names[contract.MAX_MARKED_TOKENS.name] = turn.name("reasoning_limit")
    if guide:
        names |= dict.fromkeys((guide_parts.GUIDE, *(spec.name for spec in contract.GUIDES)), guide)
    for i, tool in enumerate(turn.tools):
        names[guide_parts.of_function(tool.name)] = turn.tool_field(i)
    return names


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()
"""The input names of a backend that doesn't report which tensors it accepts."""


def fold_seed(seed: int) -> int:
    """A 64-bit seed as a 32-bit one: a seed that fits is unchanged, otherwise the two halves are combined."""
    if -(2**31) <= seed < 2**31:
        return seed
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 2**32 if folded >= 2**31 else folded
