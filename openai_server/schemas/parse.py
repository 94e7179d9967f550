"""JSON to validated requests. PURE."""

import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct

from openai_server.errors import MAX_MESSAGE, MAX_PARAM, InvalidRequest, shortened
from openai_server.schemas import bounds
from openai_server.schemas.fields import (
    ALLOWED_TOOLS_FIELDS,
    CHAT_FIELDS,
    COMPLETION_FIELDS,
    FUNCTION_CALL_FIELDS,
    FUNCTION_FIELDS,
    FUNCTION_NAME_FIELDS,
    MESSAGE_FIELDS,
    NAMED_SCHEMA_FIELDS,
    RESPONSE_FORMAT_FIELDS,
    STREAM_OPTIONS_FIELDS,
    TEXT_PART_FIELDS,
    TOOL_CALL_FIELDS,
    TOOL_CHOICE_FIELDS,
    TOOL_FIELDS,
    Fields,
)
from openai_server.schemas.json_place import field_of
from openai_server.schemas.messages import (
    AllowedToolChoice,
    FunctionDefinition,
    FunctionName,
    Message,
    NamedTool,
)
from openai_server.schemas.requests import (
    ChatRequest,
    CompletionRequest,
    Request,
)
from protos import contract


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises InvalidRequest."""
    request = _parse(body, CompletionRequest, COMPLETION_FIELDS)
    if len(request.prompts) * request.generated > bounds.MAX_CHOICES:
        raise InvalidRequest(
            f"More than {bounds.MAX_CHOICES} choices (prompts times 'n' or 'best_of') were asked for.", param="prompt"
        )
    if request.best_of is None:
        return request
    if request.best_of < request.choices:
        raise InvalidRequest("'best_of' must not be less than 'n'.", param="best_of")
    if request.chooses_best and request.stream:
        raise InvalidRequest("'best_of' is not possible in a stream: the best is known at the end.", param="best_of")
    return request


def parse_chat(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    request = _parse(body, ChatRequest, CHAT_FIELDS)
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' differ; give one of them.", param="max_tokens")
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    _check_tools(request)
    return request


def parse_messages(messages: object, body_size: int) -> list[Message]:
    """Those of a chat, alone. Raises InvalidRequest."""
    given = {"messages": messages}
    bounds.check_messages(messages, body_size)
    request = convert(given, ChatRequest)
    _check_messages(given["messages"])  # type: ignore[arg-type]  # after conversion, it is a list of objects
    return request.messages


R = TypeVar("R", bound=Request)
S = TypeVar("S", bound=Struct)


def load(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(
            f"The body is not valid JSON: {error}", param=field_of(error), code="invalid_json"
        ) from None
    if not isinstance(given, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    bounds.check_words(given, len(body))
    return given


def convert(given: dict[str, Any], struct: type[S]) -> S:
    """Raises InvalidRequest, which names the field."""
    try:
        return msgspec.convert(given, struct)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


def _parse(body: bytes, struct: type[R], fields: Fields) -> R:
    given = load(body)
    fields.check(given)
    if isinstance(options := given.get("stream_options"), dict):
        STREAM_OPTIONS_FIELDS.check(options, "stream_options.")
    if isinstance(format := given.get("response_format"), dict):
        kind = format.get("type")
        if isinstance(kind, str) and (fields_of_format := RESPONSE_FORMAT_FIELDS.get(kind)) is not None:
            fields_of_format.check(format, "response_format.")
        if isinstance(named := format.get("json_schema"), dict):
            NAMED_SCHEMA_FIELDS.check(named, "response_format.json_schema.")
    bounds.check_prompts("prompt", given.get("prompt"), bounds.MAX_CHOICES)
    bounds.check_messages(given.get("messages"), len(body))
    bounds.check_free_form(given, len(body))
    request = convert(given, struct)
    if isinstance(request, ChatRequest):
        _check_messages(given["messages"])
        _check_tool_fields(given)
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    _check_extensions(request)
    return request


def _check_extensions(request: Request) -> None:
    if request.repeat_penalty is not None and request.repetition_penalty not in (None, request.repeat_penalty):
        raise InvalidRequest(
            "'repeat_penalty' and 'repetition_penalty' differ; give one of them.", param="repeat_penalty"
        )
    if len(request.guides) > 1:
        first, second, *_ = request.guides
        raise InvalidRequest(f"'{second}' can't be combined with '{first}'.", param=second)
    if request.regex is not None and _ENDS_IN_ESCAPE.search(request.regex):
        raise InvalidRequest("'regex' ends with a backslash that escapes nothing.", param="regex")
    for token in request.logit_bias or ():
        if not (
            token.isascii() and token.isdecimal() and len(token) <= _MAX_DIGITS and int(token) <= contract.INT32_MAX
        ):
            raise InvalidRequest(f"'logit_bias': {shortened(token)!r} is no token id.", param="logit_bias")


def _check_tools(request: ChatRequest) -> None:
    if request.tools and request.functions:
        raise InvalidRequest("'functions' is the older form of 'tools'; give one of them.", param="functions")
    _check_functions([tool.function for tool in request.tools or ()], request.tool_choice, "tools", "tool_choice")
    _check_functions(request.functions or (), request.function_call, "functions", "function_call")
    if request.tool_choice == "required" and not request.tools:
        raise InvalidRequest("'tool_choice' is \"required\", but there are no 'tools'.", param="tool_choice")
    if isinstance(request.tool_choice, AllowedToolChoice):
        allowed = request.tool_choice.allowed_tools
        if allowed.mode == "required" and not allowed.tools:
            field = "tool_choice.allowed_tools.tools"
            raise InvalidRequest(f"'{field}' is empty, but its mode is \"required\".", param=field)
    if request.continue_final_message and request.add_generation_prompt:
        raise InvalidRequest(
            "'continue_final_message' can't be combined with 'add_generation_prompt'.", param="continue_final_message"
        )
    if request.tool_use and request.grammar is not None:
        raise InvalidRequest("'grammar' can't be combined with tools that may be called.", param="grammar")


def _check_functions(functions: Sequence[FunctionDefinition], choice: object, param: str, choice_param: str) -> None:
    names = {function.name for function in functions}
    if len(names) < len(functions):
        raise InvalidRequest(f"'{param}': two functions have the same name.", param=param)
    if unknown := _chosen(choice) - names:
        raise InvalidRequest(
            f"'{choice_param}': there is no function '{shortened(min(unknown))}' in '{param}'.", param=choice_param
        )


def _chosen(choice: object) -> set[str]:
    """Names of functions."""
    match choice:
        case NamedTool(function=function):
            return {function.name}
        case FunctionName(name=name):
            return {name}
        case AllowedToolChoice(allowed_tools=allowed):
            return {tool.function.name for tool in allowed.tools}
    return set()


def _check_tool_fields(given: dict[str, Any]) -> None:
    """Called after conversion, as below."""
    for i, tool in enumerate(given.get("tools") or ()):
        TOOL_FIELDS.check(tool, f"tools[{i}].")
        FUNCTION_FIELDS.check(tool["function"], f"tools[{i}].function.")
    for i, function in enumerate(given.get("functions") or ()):
        FUNCTION_FIELDS.check(function, f"functions[{i}].")
    if isinstance(choice := given.get("function_call"), dict):
        FUNCTION_NAME_FIELDS.check(choice, "function_call.")
    if isinstance(choice := given.get("tool_choice"), dict):
        TOOL_CHOICE_FIELDS[choice["type"]].check(choice, "tool_choice.")
        if choice["type"] == "function":
            FUNCTION_NAME_FIELDS.check(choice["function"], "tool_choice.function.")
        else:
            allowed = choice["allowed_tools"]
            ALLOWED_TOOLS_FIELDS.check(allowed, "tool_choice.allowed_tools.")
            for i, tool in enumerate(allowed["tools"]):
                path = f"tool_choice.allowed_tools.tools[{i}]."
                TOOL_CHOICE_FIELDS["function"].check(tool, path)
                FUNCTION_NAME_FIELDS.check(tool["function"], f"{path}function.")


def _check_messages(messages: list[dict[str, Any]]) -> None:
    """Called after conversion, so the types are known to be right."""
    for i, message in enumerate(messages):
        path = f"messages[{i}]."
        MESSAGE_FIELDS[message["role"]].check(message, path)
        if isinstance(content := message.get("content"), list):
            for j, part in enumerate(content):
                TEXT_PART_FIELDS.check(part, f"{path}content[{j}].")
        for j, call in enumerate(message.get("tool_calls") or ()):
            TOOL_CALL_FIELDS.check(call, f"{path}tool_calls[{j}].")
            FUNCTION_CALL_FIELDS.check(call["function"], f"{path}tool_calls[{j}].function.")
        if message["role"] == "assistant":
            if older_call := message.get("function_call"):
                FUNCTION_CALL_FIELDS.check(older_call, f"{path}function_call.")
            if content is None and not message.get("tool_calls") and not older_call:
                raise InvalidRequest("An assistant message needs 'content' or 'tool_calls'.", param=f"{path}content")


_ENDS_IN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_MAX_DIGITS = 10
"""Of a token id, zeros in front included: Python reads no integer of more than 4300 digits."""
_MAX_PROBLEM = 200
"""Characters of what msgspec says of a value."""

# msgspec tells the place only in its message: "Expected `float` <= 2.0 - at `$.temperature`".
_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    place = _PLACE.match(shortened(str(error), MAX_MESSAGE))  # it may quote a value
    assert place is not None  # every part of it is optional
    problem, param = shortened(place["problem"], _MAX_PROBLEM), shortened(place["path"] or "", MAX_PARAM)
    if missing := _MISSING.search(problem):
        param = f"{param}.{missing['field']}" if param else missing["field"]
        problem = "This field is required"
    return InvalidRequest(f"Invalid '{param}': {problem}.", param=param)
