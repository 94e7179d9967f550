"""The tools of a request and its `tool_choice`, as Structs, and their conversion to the tools of a turn. PURE."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from anyserve_common.text import shortened
from openai_server.api.schemas.tables import missing
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse

CUSTOM = "custom"
"""The type of a tool that the client runs and describes itself."""
DIRECT = "direct"
"""The caller that stands for the model."""


class ToolParam(Struct, kw_only=True):
    """A tool. One with another `type` than `custom` runs on a server, or its type implies the schema; such a tool is
    left out of the prompt."""

    type: str | None = None
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,128}(?!\n)$")] | None = None
    description: str | None = None
    input_schema: dict[str, Any] | None = None
    strict: bool | None = None
    allowed_callers: list[str] | None = None

    @property
    def is_offered(self) -> bool:
        """Whether the model may call it itself."""
        return self.type in (None, CUSTOM) and (self.allowed_callers is None or DIRECT in self.allowed_callers)


class ToolChoiceAuto(Struct, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool | None = None


class ToolChoiceAny(Struct, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool | None = None


class ToolChoiceTool(Struct, tag_field="type", tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class ToolChoiceNone(Struct, tag_field="type", tag="none"):
    pass


AnyToolChoice = ToolChoiceAuto | ToolChoiceAny | ToolChoiceTool | ToolChoiceNone


def tools_of(tools: Sequence[ToolParam]) -> list[Tool]:
    """The tools that the model may call. Raises InvalidRequest for one without a name or schema, and for a name that
    two of them have."""
    offered = []
    names = set()
    for i, tool in enumerate(tools):
        if not tool.is_offered:
            continue
        if tool.name is None:
            raise missing(f"tools[{i}].name")
        if tool.input_schema is None:
            raise missing(f"tools[{i}].input_schema")
        if tool.name in names:
            raise InvalidRequest(f"'tools': two tools have the name '{tool.name}'.", param="tools")
        names.add(tool.name)
        offered.append(
            Tool(FunctionDefinition(tool.name, tool.description, tool.input_schema, strict=bool(tool.strict)))
        )
    return offered


def tool_use(choice: AnyToolChoice | None, tools: Sequence[ToolParam], offered: Sequence[Tool]) -> ToolUse | None:
    """How the answer may use the tools; None if it can't call any. Raises InvalidRequest for a choice that the tools
    don't allow."""
    match choice:
        case ToolChoiceTool(name=name):
            _check_name(name, tools, offered)
            return ToolUse(offered, must_call=True, function_name=name, parallel=False)
        case ToolChoiceAny():
            if not offered:
                _refuse_any(tools)
            return ToolUse(offered, must_call=True, parallel=not choice.disable_parallel_tool_use)
        case ToolChoiceNone():
            return None
    parallel = choice is None or not choice.disable_parallel_tool_use
    return ToolUse(offered, parallel=parallel) if offered else None


def _check_name(name: str, tools: Sequence[ToolParam], offered: Sequence[Tool]) -> None:
    if name in {tool.name for tool in offered}:
        return
    if other := next((tool for tool in tools if tool.name == name), None):
        raise UnsupportedParameter("tool_choice.name", _not_run(other))
    raise InvalidRequest(f"'tool_choice.name': there is no tool '{shortened(name)}' in 'tools'.", param="tool_choice")


def _refuse_any(tools: Sequence[ToolParam]) -> None:
    if tools:
        raise UnsupportedParameter("tool_choice", _not_run(tools[0]))
    raise InvalidRequest("'tool_choice' requires a call, but there are no 'tools'.", param="tool_choice")


def _not_run(tool: ToolParam) -> str:
    if tool.type in (None, CUSTOM):
        return f"'tool_choice' requires the tool '{tool.name}', whose 'allowed_callers' leave out '{DIRECT}'."
    name = shortened(tool.name or tool.type or "")
    return f"'tool_choice' requires the tool '{name}' of type '{shortened(tool.type or '')}', which this server lacks."
