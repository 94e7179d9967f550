"""A turn in the form of OpenAI's chat: the request body for a backend that takes chats itself. PURE.

The form is the same whichever API the client called. A field that the client has not set is absent. It has nothing that
the turn doesn't have, so no credentials.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import to_builtins
from msgspec.structs import asdict

from openai_server.core.messages import AssistantMessage, FunctionMessage, Message, ToolMessage
from openai_server.core.tools import Tool
from openai_server.core.turn import Guide, Turn

Json = dict[str, Any]
LIMITS = ("max_tokens", "max_completion_tokens")
"""Names of the token limit. A request with a name of another API has the first one here."""
REASONING_LIMITS = ("thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens")
"""Names of the limit of reasoning, as LIMITS."""
DEFAULT_SCHEMA_NAME = "response"
"""OpenAI's chat requires a name for a schema, which not every API has."""


def chat_fields(turn: Turn, model: str, *, streams: bool) -> Json:
    """The fields of the body but `messages`. `model` is the name for a request without one, `streams` is whether the
    client gets a stream."""
    body: Json = {"model": turn.model or model, "stream": streams}
    body |= {name: value for name, value in asdict(turn.sampling).items() if value is not None}
    if turn.token_limit is not None:
        body[_name(turn, "token_limit", LIMITS)] = turn.token_limit
    if turn.reasoning_limit is not None:
        body[_name(turn, "reasoning_limit", REASONING_LIMITS)] = turn.reasoning_limit
    if turn.n_to_send is not None:
        body["n"] = turn.n_to_send
    if turn.tools:
        body |= _tools(turn)
    if turn.guide:
        body |= _guide(turn.guide)
    options = {name: value for name, value in asdict(turn.template).items() if value is not None}
    if turn.thinking_is_hint and options.get("enable_thinking") is False:
        del options["enable_thinking"]  # follows from the absence of a field
    return body | options | dict(turn.extras)


def _name(turn: Turn, field: str, names: Sequence[str]) -> str:
    name = turn.name(field)
    return name if name in names else names[0]


# ---- Messages


def messages_form(messages: Sequence[Message]) -> list[Json]:
    return [_message(message) for message in messages]


def _message(message: Message) -> Json:
    content = message.content
    form: Json = {"role": str(message.__struct_config__.tag), "content": content}
    if content is not None and not isinstance(content, str):
        form["content"] = [{"type": "text", "text": part.text} for part in content]
    if message.name is not None:
        form["name"] = message.name
    if isinstance(message, AssistantMessage):
        if message.reasoning_content is not None:
            form["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            form["tool_calls"] = to_builtins(message.tool_calls)
        if message.function_call is not None:
            form["function_call"] = to_builtins(message.function_call)
    elif isinstance(message, ToolMessage):
        form["tool_call_id"] = message.tool_call_id
    elif isinstance(message, FunctionMessage):
        form["content"] = message.content or ""
    return form


# ---- Tools


def _tools(turn: Turn) -> Json:
    """The fields about tools: `tools`, and `tool_choice` and `parallel_tool_calls` unless they are the defaults."""
    fields: Json = {"tools": [_tool(tool) for tool in turn.tools]}
    use = turn.tool_use
    if use is None:
        fields["tool_choice"] = "none"
    elif use.function_name is not None:
        fields["tool_choice"] = next((_reference(tool) for tool in use.tools if tool.name == use.function_name), "auto")
    elif turn.allowed_tools is not None:
        mode = "required" if use.must_call else "auto"
        allowed = {"mode": mode, "tools": [_reference(tool) for tool in use.tools]}
        fields["tool_choice"] = {"type": "allowed_tools", "allowed_tools": allowed}
    elif use.must_call:
        fields["tool_choice"] = "required"
    if use is not None and not use.parallel and use.function_name is None and not use.legacy:
        fields["parallel_tool_calls"] = False
    return fields


def _tool(tool: Tool) -> Json:
    function, custom = tool.function, tool.custom
    definition: Json = {"name": function.name}
    if function.description is not None:
        definition["description"] = function.description
    if custom is None:
        if function.parameters is not None:
            definition["parameters"] = function.parameters
        if function.strict:  # false is the default
            definition["strict"] = True
        return {"type": "function", "function": definition}
    if custom.syntax != "text":
        grammar = {"syntax": custom.syntax, "definition": custom.definition}
        definition["format"] = {"type": "grammar", "grammar": grammar}
    return {"type": "custom", "custom": definition}


def _reference(tool: Tool) -> Json:
    kind = "function" if tool.custom is None else "custom"
    return {"type": kind, kind: {"name": tool.name}}


# ---- Guides


def _guide(guide: Guide) -> Json:
    """A schema as `response_format`, any other guide as vLLM's `structured_outputs`."""
    schema = guide.json_schema
    if schema is None:
        guides = {"regex": guide.regex, "choice": guide.choice, "grammar": guide.grammar or guide.lark}
        return {"structured_outputs": {name: value for name, value in guides.items() if value is not None}}
    if guide.whitespace is not None:
        return {"structured_outputs": {"json": schema, "whitespace_pattern": guide.whitespace}}
    if schema == _ANY_OBJECT and not guide.strict and not guide.name:
        return {"response_format": {"type": "json_object"}}
    named: Json = {"name": guide.name or DEFAULT_SCHEMA_NAME, "schema": schema}
    if guide.description:
        named["description"] = guide.description
    if guide.strict:
        named["strict"] = True
    return {"response_format": {"type": "json_schema", "json_schema": named}}


_ANY_OBJECT = {"type": "object"}
