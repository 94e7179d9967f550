"""The tools of a turn, and those that its answer may call. PURE."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct


class FunctionDefinition(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]  # OpenAI's pattern, plus dots
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: FunctionDefinition


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the answer may call, from `tools` or the older API's `functions`."""

    tools: Sequence[Tool]
    must_call: bool = False
    """Whether the answer must be a call."""
    function_name: str | None = None
    """Name of the function that the answer must call; None: the model chooses."""
    parallel: bool = True
    """Whether the answer may have several calls."""
    legacy: bool = False
    """Whether tools and calls have the older API's form (`functions`, `function_call`)."""
