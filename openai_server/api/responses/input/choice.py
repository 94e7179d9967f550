"""The tools that an answer may or must call, from `tool_choice`. PURE."""

from collections.abc import Iterable

from anyserve_common.text import shortened
from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.responses.input.fields import HOSTED_TOOLS
from openai_server.api.responses.input.toolbox import Toolbox
from openai_server.api.responses.input.tools import AllowedTool, AllowedToolsChoice, CustomToolChoice, FunctionChoice
from openai_server.core.errors import InvalidRequest
from openai_server.core.tools import ToolUse


def tool_use(request: ResponsesBody, tools: Toolbox) -> ToolUse | None:
    """None if the answer must not call tools. Raises InvalidRequest for a tool that the request doesn't have."""
    parallel = request.parallel_tool_calls is not False
    match request.tool_choice:
        case None | "auto":
            return ToolUse(tools.tools, parallel=parallel) if tools.tools else None
        case "none":
            return None
        case "required":
            if not tools.tools:
                raise InvalidRequest(
                    "'tool_choice' is \"required\", but 'tools' has none that this server's answer can call."
                    + _lacking(tool.__struct_config__.tag for tool in request.tools or ()),
                    param="tool_choice",
                )
            return ToolUse(tools.tools, must_call=True, parallel=parallel)
        case FunctionChoice(name=name, namespace=namespace):
            return _named(tools, namespace, name, "function")
        case CustomToolChoice(name=name, namespace=namespace):
            return _named(tools, namespace, name, "custom")
        case AllowedToolsChoice() as choice:
            return _allowed(choice, tools, parallel=parallel)


def _named(tools: Toolbox, namespace: str | None, name: str, kind: str) -> ToolUse:
    flat = tools.find(namespace, name, kind)
    if flat is None:
        raise _unknown(kind, namespace, name, "tool_choice")
    return ToolUse(tools.tools, must_call=True, function_name=flat, parallel=False)


def _allowed(choice: AllowedToolsChoice, tools: Toolbox, *, parallel: bool) -> ToolUse | None:
    names = {name for i, tool in enumerate(choice.tools) for name in _names(tool, tools, f"tool_choice.tools[{i}]")}
    allowed = [tool for tool in tools.tools if tool.name in names]
    if not allowed and choice.mode == "required":
        raise InvalidRequest(
            "'tool_choice.tools' has no tool that this server's answer can call, but its mode is \"required\"."
            + _lacking(tool.type for tool in choice.tools),
            param="tool_choice.tools",
        )
    return ToolUse(allowed, must_call=choice.mode == "required", parallel=parallel) if allowed else None


def _names(tool: AllowedTool, tools: Toolbox, field: str) -> list[str]:
    """Flat names; empty for a tool that this server doesn't have."""
    if tool.type in HOSTED_TOOLS:
        return []
    if tool.type not in ("function", "custom", "namespace"):
        raise InvalidRequest(f"'{field}.type' is not a type of tool.", param=f"{field}.type")
    if tool.name is None:
        raise InvalidRequest(f"Invalid '{field}.name': This field is required.", param=f"{field}.name")
    if tool.type == "namespace":
        found = tools.in_namespace(tool.name)
    else:
        flat = tools.find(tool.namespace, tool.name, tool.type)
        found = [flat] if flat else []
    if not found:
        raise _unknown(tool.type, tool.namespace, tool.name, field)
    return found


def _lacking(types: Iterable[object]) -> str:
    """The end of a message: names the first of the types that this server doesn't have; empty if it has all."""
    found = next((type for type in types if type in HOSTED_TOOLS), None)
    return f" It doesn't have {found}." if found else ""


def _unknown(kind: str, namespace: str | None, name: str, field: str) -> InvalidRequest:
    full = shortened(name if namespace is None else f"{namespace}.{name}")
    kinds = {"custom": "custom tool", "function": "function"}
    return InvalidRequest(f"'{field}': there is no {kinds.get(kind, kind)} '{full}' in 'tools'.", param=field)
