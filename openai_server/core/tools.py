"""The tools of a turn, and those that its answer may call. PURE.

An API translates its own form of tools into these. Templates and formats of calls see every tool as a function: a
custom tool, which takes free text, is a function with one string parameter.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

INPUT = "input"
"""The parameter of a custom tool."""
ToolName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}(?!\n)$")]
"""OpenAI's pattern, plus dots."""


class FunctionDefinition(Struct):
    name: ToolName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None
    """Whether the arguments must follow `parameters` exactly. False: parts that can't be enforced are ignored. None:
    exactly if all parts can be enforced, else as with False."""


class CustomFormat(Struct, frozen=True):
    """The text that a custom tool takes."""

    syntax: Literal["text", "lark", "regex"] = "text"
    """`text`: any text; otherwise the language of `definition`."""
    definition: str = ""


class Tool(Struct):
    function: FunctionDefinition
    custom: CustomFormat | None = None
    """None: a function."""
    enforcement: Literal["demanded", "best_effort", "none"] = "demanded"
    """Whether the answer's grammar has the function's schema. `demanded`: a schema that the backend refuses is an
    error. `best_effort`: such a schema is left out. `none`: it is left out, so the arguments are any JSON object."""

    @property
    def name(self) -> str:
        return self.function.name


def custom_tool(name: str, description: str | None = None, format: CustomFormat | None = None) -> Tool:
    """A custom tool. Its input must follow a grammar exactly, which the model reads in the parameter's description."""
    format = format or CustomFormat()
    has_grammar = format.syntax != "text"
    input: dict[str, Any] = {"type": "string"}
    if has_grammar:
        input["description"] = f"{_SYNTAX_TITLES[format.syntax]}\n{format.definition}"
    parameters = {"type": "object", "properties": {INPUT: input}, "required": [INPUT], "additionalProperties": False}
    return Tool(FunctionDefinition(name, description, parameters, strict=has_grammar), format)


_SYNTAX_TITLES = {"lark": "Text that matches this Lark grammar:", "regex": "Text that matches this regular expression:"}


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the answer may call."""

    tools: Sequence[Tool]
    """The template shows these to the model. The turn may have more: the answer never calls them."""
    must_call: bool = False
    """Whether the answer must be a call."""
    function_name: str | None = None
    """Name of the tool that the answer must call; None: the model chooses."""
    parallel: bool = True
    """Whether the answer may have several calls."""
    legacy: bool = False
    """Whether tools and calls have the older API's form (`functions`, `function_call`)."""
