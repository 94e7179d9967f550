"""Encodes a turn as tensors: the table of its fields, and the ModelInferRequest of one prompt. PURE."""

import re
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import orjson
from msgspec.structs import astuple

from openai_server.backends.dialects.base import ServerInputs, Target
from openai_server.core import guide_parts
from openai_server.core.closing import closed
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.lark import json_value
from openai_server.core.turn import Guide, Prompt, Sampling, Turn
from protos import contract, tensors
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest


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


def _source(value: str | Mapping[str, Any]) -> Sequence[bytes]:
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
    InputRow("json_schema", contract.JSON_SCHEMA, elements=_source),
    InputRow("regex", contract.REGEX, elements=_source),
    InputRow("grammar", contract.GRAMMAR, elements=_source),
    InputRow("lark", contract.LARK, elements=_source),
    InputRow("top_logprobs", contract.LOGPROBS),
    InputRow("n_to_send", contract.N, off=1),
    InputRow("timings", contract.TIMINGS, off=False),
    InputRow("progress", contract.PROMPT_PROGRESS, off=False),
    # Only for completions.
    InputRow("echo", contract.ECHO, off=False),
    InputRow("suffix", contract.SUFFIX, elements=_source),
)
"""A field that is None is not sent."""


def _values(turn: Turn) -> tuple[Any, ...]:
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


def guide_inputs(guide: Guide, target: Target) -> dict[TensorSpec, Sequence[Any]]:
    """The inputs of a guide that is more than one text, for all prompts; empty for any other. Takes up to 15 ms.

    Raises UnsupportedParameter for whitespace in JSON, or texts to choose from, that the backend has no input for.
    """
    input_names = target.input_names
    if guide.choice is not None:
        _require(contract.REGEX, guide.field, target)
        return {contract.REGEX: _source("|".join(_META.sub(r"\\\g<0>", text) for text in guide.choice))}
    if guide.json_schema is None:
        return {}
    if guide.whitespace is not None:
        _require(contract.LARK, guide.whitespace_field, target)
        value = json_value(closed(guide.json_schema), exactly=guide.strict, whitespace=guide.whitespace)
        part = f"{contract.PART_COMMENT}{guide_parts.GUIDE}"
        return {contract.LARK: _source(f"start: r0\n{part}\nr0: {value}\n")}
    if contract.JSON_SCHEMA.name not in input_names:
        return {}
    inputs: dict[TensorSpec, Sequence[Any]] = {contract.JSON_SCHEMA: _source(closed(guide.json_schema))}
    # A backend that doesn't list its inputs may refuse a tensor that no client set.
    if not guide.strict and input_names is not EVERYTHING and contract.LENIENT_SCHEMA.name in input_names:
        inputs[contract.LENIENT_SCHEMA] = [True]
    return inputs


_META = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")
"""Characters with a meaning in regular expressions."""


def _require(spec: TensorSpec, field: str, target: Target) -> None:
    if spec.name not in target.input_names:
        raise UnsupportedParameter(field, f"The model '{target.model}' does not support '{field}'.")


class _Everything:
    def __contains__(self, _: object) -> bool:
        return True


EVERYTHING: Container[str] = _Everything()
"""The input names of a backend that doesn't report which tensors it accepts."""


def infer_request(
    turn: Turn,
    prompt: Prompt,
    *,
    model: str,
    request_id: str,
    input_names: Container[str] = EVERYTHING,
    server_inputs: ServerInputs = MappingProxyType({}),
) -> ModelInferRequest:
    """The request for one prompt. It has only the fields that the client set; all others are the backend's defaults.

    `input_names` are the names of the backend's inputs. `server_inputs` replace the client's fields. Raises
    UnsupportedParameter if the client set a field that this backend has no input for.
    """
    message = ModelInferRequest(model_name=model, id=request_id)
    spec = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
    if spec.name not in input_names:
        problem = f"The model '{model}' accepts no prompt in this form (it has no '{spec.name}' input)."
        raise UnsupportedParameter(turn.name("prompt"), problem)
    tensors.add_input(message, spec, [prompt.encode()] if isinstance(prompt, str) else prompt)

    for spec, elements in server_inputs.items():
        tensors.add_input(message, spec, elements)
    for row, value in zip(INPUT_ROWS, _values(turn), strict=True):
        if value is None or (server_inputs and row.tensor in server_inputs):
            continue
        values = row.elements(value) if row.elements else (value,)
        if not values:
            continue
        if row.tensor.name in input_names:
            tensors.add_input(message, row.tensor, values)
        elif list(values) != [row.off] and not (row.field == "token_limit" and turn.has_default_limit):
            field = fields(turn)[row.tensor.name]
            raise UnsupportedParameter(field, f"The model '{model}' does not support '{field}'.")
    return message


def fold_seed(seed: int) -> int:
    """A 64-bit seed as a 32-bit one: a seed that fits is unchanged, otherwise the two halves are combined."""
    if -(2**31) <= seed < 2**31:
        return seed
    folded = (seed ^ (seed >> 32)) & 0xFFFFFFFF
    return folded - 2**32 if folded >= 2**31 else folded
