"""JSON to validated requests. PURE."""

import re
from collections.abc import Collection, Iterable, Sequence, Set
from typing import Any, TypeVar

import msgspec
import orjson
from msgspec import Struct

from anyserve_common.text import shortened
from openai_server.api.schemas import bounds
from openai_server.api.schemas.fields import CHAT_FIELDS, COMPLETION_FIELDS, MESSAGES
from openai_server.api.schemas.guides import decode_schemas, settle_schemas
from openai_server.api.schemas.requests import (
    ChatRequest,
    CompletionRequest,
    GenerationFields,
    Request,
    reasoning_limits_of,
)
from openai_server.api.schemas.tables import Fields, missing
from openai_server.api.schemas.tools import AllowedToolChoice, NamedTool, ToolReference, named
from openai_server.core.errors import MAX_MESSAGE, MAX_PARAM, InvalidRequest, UnsupportedParameter
from openai_server.core.messages import AnswerContent, AnswerPart, AnyAnswerPart, AssistantMessage, Message
from openai_server.core.tools import Tool
from protos import contract


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises InvalidRequest."""
    request = _parse(body, CompletionRequest, COMPLETION_FIELDS)
    if request.suffix == "":  # no text follows the answer
        request.suffix = None
    if len(request.prompts) > 1:
        for field in ("timings_per_token", "return_progress"):
            if getattr(request, field):
                raise InvalidRequest(f"'{field}' is only allowed with one prompt.", param=field)
    n = request.n or 1
    if isinstance(request.prompt, list) and len(request.prompts) * (request.best_of or n) > bounds.MAX_CHOICES:
        raise InvalidRequest(
            f"The request needs more than {bounds.MAX_CHOICES} choices (prompts times 'n' or 'best_of').",
            param="prompt",
        )
    if request.best_of is None:
        return request
    if request.best_of < n:
        raise InvalidRequest("'best_of' must not be less than 'n'.", param="best_of")
    if request.best_of > n and request.stream:
        raise InvalidRequest(
            "'best_of' can't be combined with 'stream': the best choice is known only at the end.", param="best_of"
        )
    return request


def parse_chat(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    request = _parse(body, ChatRequest, CHAT_FIELDS)
    limit = request.max_completion_tokens
    if limit is not None and request.max_tokens not in (None, limit):
        raise InvalidRequest(
            "'max_tokens' and 'max_completion_tokens' differ; set only one of them.", param="max_tokens"
        )
    if request.top_logprobs and not request.logprobs:
        raise InvalidRequest("'top_logprobs' is only allowed when 'logprobs' is true.", param="top_logprobs")
    check_reasoning_limits(reasoning_limits_of(request))
    _check_tools(request)
    return request


def check_reasoning_limits(limits: Collection[str]) -> None:
    """Raises InvalidRequest if several fields limit reasoning. `limits` are their names."""
    if len(limits) > 1:
        first, second, *_ = limits
        raise InvalidRequest(f"'{second}' and '{first}' have the same meaning; set only one of them.", param=second)


def parse_messages(messages: object, body_size: int) -> list[Message]:
    """The messages of a request that has no other chat fields. Raises InvalidRequest."""
    bounds.check_messages(messages, body_size)
    MESSAGES.clean(messages, (None, "messages"))
    request = convert({"messages": messages}, ChatRequest)
    _settle(request.messages)
    return request.messages


R = TypeVar("R", bound=Request)
S = TypeVar("S", bound=Struct)


def load(body: bytes) -> dict[str, Any]:
    """Decodes the JSON object of a body. Raises InvalidRequest."""
    try:
        payload = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        from openai_server.api.schemas.json_place import field_of  # few bodies need it

        raise InvalidRequest(
            f"The body is not valid JSON: {error}", param=field_of(error), code="invalid_json"
        ) from None
    if not isinstance(payload, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
    bounds.check_keywords(payload, len(body))
    return payload


def convert(payload: dict[str, Any], struct: type[S]) -> S:
    """Raises InvalidRequest, which names the field."""
    try:
        return _converted(payload, struct)
    except msgspec.ValidationError as error:
        raise _invalid(error) from None


def _converted(payload: dict[str, Any], struct: type[S]) -> S:
    """Raises ValidationError."""
    try:
        return msgspec.convert(payload, struct)
    except msgspec.ValidationError as error:
        if _GOT_FLOAT not in str(error):
            raise
    from openai_server.api.schemas.integers import with_integers  # few bodies need it

    return msgspec.convert(with_integers(payload, struct), struct)


def _parse(body: bytes, struct: type[R], fields: Fields) -> R:
    payload = load(body)
    bounds.check_prompts("prompt", payload.get("prompt"), bounds.MAX_CHOICES)
    bounds.check_messages(payload.get("messages"), len(body))
    decode_schemas(payload)
    bounds.check_free_form(payload, len(body))
    fields.clean(payload)
    request = convert(payload, struct)
    if isinstance(request, ChatRequest):
        _settle(request.messages)
    if request.stream_options is not None and request.include_usage and not request.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    if request.return_progress and not request.stream:
        raise InvalidRequest("'return_progress' is only allowed when 'stream' is true.", param="return_progress")
    check_extensions(request)
    return request


def check_extensions(request: GenerationFields) -> None:
    """Raises InvalidRequest for fields of which each is valid alone."""
    if request.repeat_penalty is not None and request.repetition_penalty not in (None, request.repeat_penalty):
        raise InvalidRequest(
            "'repeat_penalty' and 'repetition_penalty' differ; set only one of them.", param="repeat_penalty"
        )
    settle_schemas(request)
    _ = request.guide  # raises InvalidRequest for several constraints
    for token in request.logit_bias or ():
        if not (
            token.isascii() and token.isdecimal() and len(token) <= _MAX_DIGITS and int(token) <= contract.INT32_MAX
        ):
            raise InvalidRequest(f"'logit_bias': {shortened(token)!r} is not a token id.", param="logit_bias")


def _check_tools(request: ChatRequest) -> None:
    if request.tools and request.functions:
        raise InvalidRequest("'functions' is the older form of 'tools'; set only one of them.", param="functions")
    has_tools = bool(request.tools or request.functions)
    if has_tools or request.tool_choice or request.function_call:
        _check_names(request)
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
    if has_tools and (guide := request.guide).grammar is not None and request.tool_use:
        raise InvalidRequest(
            f"A grammar in GBNF in '{guide.field}' can't be combined with tools that may be called.", param=guide.field
        )


def _check_names(request: ChatRequest) -> None:
    param = "functions" if request.functions else "tools"
    tools: dict[str, Tool] = {}
    for tool in request.all_tools:
        if tool.name in tools:
            kind = "functions" if tool.custom is None and tools[tool.name].custom is None else "tools"
            raise InvalidRequest(f"'{param}': two {kind} have the same name.", param=param)
        tools[tool.name] = tool
    functions = {name for name, tool in tools.items() if tool.custom is None}
    custom_tools = tools.keys() - functions
    if isinstance(request.function_call, ToolReference):
        known = functions if request.functions else set[str]()
        _check_choice([request.function_call.name], known, "function", "functions", "function_call")
    if request.functions:
        functions, custom_tools = set(), set()
    for choice in named(request.tool_choice):
        is_function = isinstance(choice, NamedTool)
        known, kind = (functions, "function") if is_function else (custom_tools, "custom tool")
        _check_choice([choice.name], known, kind, "tools", "tool_choice")


def _check_choice(names: Iterable[str], known: Set[str], kind: str, param: str, choice_param: str) -> None:
    if unknown := set(names) - known:
        raise InvalidRequest(
            f"'{choice_param}': there is no {kind} '{shortened(min(unknown))}' in '{param}'.", param=choice_param
        )


def _settle(messages: Sequence[Message]) -> None:
    """Moves fields with other servers' names in answers to the names in templates. Raises InvalidRequest."""
    for i, message in enumerate(messages):
        if not isinstance(message, AssistantMessage):
            continue
        if isinstance(message.content, list):
            _settle_parts(message, message.content)
        if message.reasoning:
            if message.reasoning_content not in (None, "", message.reasoning):
                raise InvalidRequest(
                    f"'messages[{i}].reasoning' and 'messages[{i}].reasoning_content' differ; set only one of them.",
                    param=f"messages[{i}].reasoning",
                )
            message.reasoning_content = message.reasoning
        if message.refusal:
            message.content = _with_text(message.content, message.refusal)
        if message.audio is not None:
            if message.audio.transcript is None:
                raise UnsupportedParameter(
                    f"messages[{i}].audio", f"'messages[{i}].audio' needs its 'transcript': no audio is stored here."
                )
            message.content = _with_text(message.content, message.audio.transcript)
        message.reasoning = message.refusal = message.audio = None


def _settle_parts(message: AssistantMessage, parts: Sequence[AnyAnswerPart]) -> None:
    """Merges the parts of an answer. Reasoning of the message itself takes precedence over that of its parts."""
    message.content = [AnswerPart(part.text) for part in parts] or None
    if not message.reasoning and not message.reasoning_content:
        reasoning = (part.reasoning_content or part.reasoning for part in parts if isinstance(part, AnswerPart))
        message.reasoning_content = next(filter(None, reasoning), message.reasoning_content)


def _with_text(content: AnswerContent | None, text: str) -> AnswerContent:
    if not content:
        return text
    return f"{content}\n{text}" if isinstance(content, str) else [*content, AnswerPart(text)]


_MAX_DIGITS = 10
"""Digits of a token id, including leading zeros: Python parses no integer of more than 4300 digits."""
_MAX_PROBLEM = 200
"""Characters of msgspec's message about a value."""

_GOT_FLOAT = "got `float`"
"""Part of msgspec's message about a float in place of another type."""
# msgspec reports the place only in its message: "Expected `float` <= 2.0 - at `$.temperature`".
_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at (?P<key>`key` in )?`(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    place = _PLACE.match(shortened(str(error), MAX_MESSAGE))  # it may quote a value
    assert place is not None  # every part of it is optional
    problem, param = shortened(place["problem"], _MAX_PROBLEM), shortened(place["path"] or "", MAX_PARAM)
    if found := _MISSING.search(problem):
        return missing(f"{param}.{found['field']}" if param else found["field"])
    return InvalidRequest(f"Invalid '{param}': {problem}{' as a key' if place['key'] else ''}.", param=param)
