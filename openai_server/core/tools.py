"""The tools of a turn, and which of them its answer may call. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct


class FunctionDefinition(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]  # OpenAI's, and dots
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: FunctionDefinition


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the model may call, in either API's words."""

    tools: Sequence[Tool]
    must: bool = False
    """The answer is a call."""
    named: str | None = None
    """Name of the function that the answer calls; None: the model chooses."""
    parallel: bool = True
    """There may be several."""
    legacy: bool = False
    """They are the older API's functions, and so is the call."""
