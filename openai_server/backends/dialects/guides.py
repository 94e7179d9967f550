"""The inputs of the contract that this server sets: for guides of more than one text, and to choose the best. PURE."""

import re
from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from openai_server.backends.dialects.base import ServerInputs, Target
from openai_server.backends.dialects.inputs import EVERYTHING, source, unsupported
from openai_server.core import guide_parts
from openai_server.core.closing import closed
from openai_server.core.lark import json_value
from openai_server.core.turn import NO_GUIDE, Guide, Turn
from protos import contract
from protos.contract import TensorSpec


def with_server_inputs(turn: Turn, target: Target, inputs: ServerInputs) -> tuple[Turn, ServerInputs]:
    """The turn without a guide that became inputs, and all inputs that this server sets.

    Raises UnsupportedParameter.
    """
    if guides := guide_inputs(turn.guide, target):
        inputs, turn = {**inputs, **guides}, replace(turn, guide=NO_GUIDE)
    if turn.chooses_best and turn.top_logprobs is None:
        inputs = {**inputs, contract.LOGPROBS: [0]}  # needed to choose the best
    return turn, inputs


def guide_inputs(guide: Guide, target: Target) -> dict[TensorSpec, Sequence[Any]]:
    """The inputs of a guide that is more than one text, for all prompts; empty for any other. Takes up to 15 ms.

    Raises UnsupportedParameter for whitespace in JSON, or texts to choose from, that the backend has no input for.
    """
    input_names = target.input_names
    if guide.choice is not None:
        _require(contract.REGEX, guide.field, target)
        return {contract.REGEX: source("|".join(_META.sub(r"\\\g<0>", text) for text in guide.choice))}
    if guide.json_schema is None:
        return {}
    if guide.whitespace is not None:
        _require(contract.LARK, guide.whitespace_field, target)
        value = json_value(closed(guide.json_schema), exactly=guide.strict, whitespace=guide.whitespace)
        part = f"{contract.PART_COMMENT}{guide_parts.GUIDE}"
        return {contract.LARK: source(f"start: r0\n{part}\nr0: {value}\n")}
    if contract.JSON_SCHEMA.name not in input_names:
        return {}
    inputs: dict[TensorSpec, Sequence[Any]] = {contract.JSON_SCHEMA: source(closed(guide.json_schema))}
    # A backend that doesn't list its inputs may refuse a tensor that no client set.
    if not guide.strict and input_names is not EVERYTHING and contract.LENIENT_SCHEMA.name in input_names:
        inputs[contract.LENIENT_SCHEMA] = [True]
    return inputs


_META = re.compile(r"[\\.+*?()|\[\]{}^$#&\-~]")
"""Characters with a meaning in regular expressions."""


def _require(spec: TensorSpec, field: str, target: Target) -> None:
    if spec.name not in target.input_names:
        raise unsupported(field, target.model)
