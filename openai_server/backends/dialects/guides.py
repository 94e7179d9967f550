"""The inputs of the contract for a guide that is more than one text. PURE."""

import re
from collections.abc import Sequence
from typing import Any

from openai_server.backends.dialects.base import Target
from openai_server.backends.dialects.inputs import EVERYTHING, source
from openai_server.core import guide_parts
from openai_server.core.closing import closed
from openai_server.core.errors import UnsupportedParameter
from openai_server.core.lark import json_value
from openai_server.core.turn import Guide
from protos import contract
from protos.contract import TensorSpec


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
        raise UnsupportedParameter(field, f"The model '{target.model}' does not support '{field}'.")
