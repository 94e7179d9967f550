"""Tool calls for a model whose template doesn't support tools: Hermes' tags, explained to the model in a text.

PURE. `as_plain` converts a conversation with tools to one that every template can render: the system message has the
instructions, the assistant's text has the calls, and user messages have the results.
"""

from collections.abc import Sequence

import msgspec
import orjson

from openai_server.core.messages import (
    AssistantMessage,
    DeveloperMessage,
    FunctionCall,
    FunctionMessage,
    Message,
    SystemMessage,
    ToolMessage,
    UserMessage,
    text_of,
)
from openai_server.core.tools import Tool
from openai_server.parsing.tools import schema
from openai_server.parsing.tools.json_calls import JsonCalls
from openai_server.parsing.tools.tagged import HERMES


class GenericCalls(JsonCalls):
    in_template = False


GENERIC = GenericCalls("generic", HERMES.markers, HERMES.close, space=HERMES.space, between=HERMES.between)


def instructions(
    tools: Sequence[Tool], *, parallel: bool = True, must_call: bool = False, function_name: str | None = None
) -> str:
    """The text for the model that describes the tools, how to call them, and whether the answer must be a call (of
    `function_name`, if set)."""
    listed = "\n".join(orjson.dumps(_description(tool)).decode() for tool in tools)
    several = "For each function call, write" if parallel else "You may call one function at a time. For a call, write"
    with_parameters = sum(not schema.has_no_arguments(schema.parameters(tool.function)) for tool in tools)
    example = '{"argument": "value"}' if with_parameters else "{}"
    texts = [
        "You can call functions. These are described here as JSON, one a line:\n"
        f"<tools>\n{listed}\n</tools>\n\n"
        f"{several} a JSON object with the name of the function and its arguments within <tool_call> tags:\n"
        f'<tool_call>\n{{"name": "function name", "arguments": {example}}}\n</tool_call>\n'
        "The result then comes within <tool_response> tags."
    ]
    if 0 < with_parameters < len(tools):
        texts.append('For a function without parameters, write "arguments": {}.')
    if function_name is not None:
        texts.append(f"Answer with a call of {function_name}.")
    elif must_call:
        texts.append("Answer with a function call.")
    else:
        texts.append("If no function is needed, answer as usual.")
    return "\n".join(texts)


def as_plain(messages: Sequence[Message], instructions: str, *, system_role: bool = True) -> list[Message]:
    """The same conversation without tool calls and tool messages. `instructions` may be empty.

    Without a `system_role`, the instructions go before the text of the first message.
    """
    plain: list[Message] = []
    from_tool = False  # whether the last message has tool results; further user messages are merged into it
    for message in messages:
        if isinstance(message, ToolMessage | FunctionMessage):
            result = f"<tool_response>\n{text_of(message)}\n</tool_response>"
            if from_tool:
                plain[-1] = UserMessage(f"{text_of(plain[-1])}\n{result}")
            else:
                plain.append(UserMessage(result))
            from_tool = True
            continue
        if isinstance(message, AssistantMessage) and (calls := _calls(message)):
            text = text_of(message)
            message = msgspec.structs.replace(
                message, content=f"{text}\n{calls}" if text else calls, tool_calls=None, function_call=None
            )
        if from_tool and isinstance(message, UserMessage):
            plain[-1] = UserMessage(f"{text_of(plain[-1])}\n\n{text_of(message)}", message.name)
        else:
            plain.append(message)
        from_tool = False
    first = plain[0] if plain else None
    if not instructions:
        return plain
    if isinstance(first, SystemMessage | DeveloperMessage):
        plain[0] = msgspec.structs.replace(first, content=f"{text_of(first)}\n\n{instructions}")
    elif system_role:
        plain.insert(0, SystemMessage(instructions))
    elif isinstance(first, UserMessage):
        plain[0] = msgspec.structs.replace(first, content=f"{instructions}\n\n{text_of(first)}")
    else:
        plain.insert(0, UserMessage(instructions))
    return plain


def _description(tool: Tool) -> dict[str, object]:
    """The function in the API's form, without absent fields and `strict`, which is of no use to a model."""
    function = msgspec.to_builtins(tool.function)
    return {key: value for key, value in function.items() if value is not None and key != "strict"}


def _calls(message: AssistantMessage) -> str:
    functions = [call.function for call in message.tool_calls or ()]
    if message.function_call:
        functions.append(message.function_call)
    return "\n".join(map(_call, functions))


def _call(function: FunctionCall) -> str:
    name = orjson.dumps(function.name).decode()
    return f'<tool_call>\n{{"name": {name}, "arguments": {function.arguments or "{}"}}}\n</tool_call>'
