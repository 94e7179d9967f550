"""The values of a chat's `tools` and `tool_choice`, as Structs, and their conversion to the tools of a turn. PURE."""

from collections.abc import Sequence
from typing import Annotated, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from openai_server.api.schemas.bounds import MAX_TOOLS
from openai_server.core.tools import CustomFormat, FunctionDefinition, Tool, ToolName, custom_tool

# ---- Tools


class FunctionTool(Struct, tag_field="type", tag="function"):
    function: FunctionDefinition

    def tool(self) -> Tool:
        return function_tool(self.function)


class AnyInput(Struct, tag_field="type", tag="text"):
    pass


class GrammarDefinition(Struct):
    syntax: Literal["lark", "regex"]
    definition: Annotated[str, Meta(min_length=1)]


class GrammarInput(Struct, tag_field="type", tag="grammar"):
    grammar: GrammarDefinition


class CustomDefinition(Struct):
    name: ToolName
    description: str | None = None
    format: AnyInput | GrammarInput | None = None


class CustomTool(Struct, tag_field="type", tag="custom"):
    custom: CustomDefinition

    def tool(self) -> Tool:
        custom, format = self.custom, CustomFormat()
        if isinstance(custom.format, GrammarInput):
            format = CustomFormat(custom.format.grammar.syntax, custom.format.grammar.definition)
        return custom_tool(custom.name, custom.description, format)


AnyTool = FunctionTool | CustomTool


def function_tool(function: FunctionDefinition) -> Tool:
    """In a chat, an absent `strict` is false."""
    return Tool(function if function.strict else replace(function, strict=False))


def name_of(tool: AnyTool) -> str:
    return tool.function.name if isinstance(tool, FunctionTool) else tool.custom.name


# ---- Choice


class ToolReference(Struct):
    name: str


class NamedTool(Struct, tag_field="type", tag="function"):
    function: ToolReference

    @property
    def name(self) -> str:
        return self.function.name


class NamedCustomTool(Struct, tag_field="type", tag="custom"):
    custom: ToolReference

    @property
    def name(self) -> str:
        return self.custom.name


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool | NamedCustomTool], Meta(max_length=MAX_TOOLS)]


class AllowedToolChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | NamedCustomTool | AllowedToolChoice


def named(choice: object) -> Sequence[NamedTool | NamedCustomTool]:
    """The tools that `choice` refers to."""
    match choice:
        case NamedTool() | NamedCustomTool():
            return [choice]
        case AllowedToolChoice(allowed_tools=allowed):
            return allowed.tools
    return ()
