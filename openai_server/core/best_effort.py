"""Leaves out the schemas of tools that the backend refuses, where the client doesn't demand them. PURE."""

import dataclasses

from msgspec.structs import replace

from openai_server.core import guide_parts
from openai_server.core.errors import BackendError
from openai_server.core.tools import Tool, ToolUse
from openai_server.core.turn import Turn
from protos import contract

MAX_SINGLE = 3
"""Number of schemas to leave out one by one. After that, all that may be left out are: each attempt compiles a
grammar."""


def without_refused_schema(turn: Turn, error: BackendError) -> Turn | None:
    """The turn without the schema of the tool that the error names, or without all such schemas if it names no part of
    the grammar. None: the error is another one, or the client demands the schema."""
    part = error.details.get(contract.ERROR_PART, "")
    function = guide_parts.function_of(part)
    use = turn.tool_use
    if use is None or error.tensor != contract.LARK.name or (part and not function):
        return None
    if function and not any(tool.name == function and _may_be_left_out(tool) for tool in use.tools):
        return None
    if sum(tool.enforcement == "none" for tool in use.tools) >= MAX_SINGLE:
        function = ""
    return without_schemas(turn, function)


def without_schemas(turn: Turn, function: str = "") -> Turn | None:
    """The turn without the schemas that the client doesn't demand, or without that of one function. None: there are
    none."""
    use = turn.tool_use
    left_out = [tool for tool in use.tools if _may_be_left_out(tool) and function in ("", tool.name)] if use else []
    if use is None or not left_out:
        return None
    tools = [replace(tool, enforcement="none") if tool in left_out else tool for tool in use.tools]
    return replace(turn, tool_use=dataclasses.replace(use, tools=tools))


def for_grammar(use: ToolUse) -> ToolUse:
    """The tools as the answer's grammar describes them: those without a schema take any JSON object."""
    if all(tool.enforcement != "none" for tool in use.tools):
        return use
    return dataclasses.replace(use, tools=[_open(tool) if tool.enforcement == "none" else tool for tool in use.tools])


def _may_be_left_out(tool: Tool) -> bool:
    return tool.enforcement == "best_effort"


def _open(tool: Tool) -> Tool:
    function = replace(tool.function, parameters={"type": "object", "additionalProperties": True})
    return replace(tool, function=function)
