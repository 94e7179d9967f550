"""JSON to validated requests.

PURE. No field is accepted and ignored. For each JSON object of the API, a `Fields` table says what becomes of each of
its keys: mapped (it is an attribute of the msgspec Struct), without effect on the output, or refused unless its value
asks for what happens anyway. tests/openai_server/test_schemas.py walks the types of the `openai` package and fails for
a key that is in none of them.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

import msgspec
import orjson
from msgspec import Meta, Struct

from openai_server.errors import InvalidRequest, UnsupportedParameter
from protos import contract

MAX_CHOICES = 2048
"""Most choices of one request, prompts times `n`: the answer is built in memory."""

INT64_MAX = 2**63 - 1
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for completions. (Chat has none: it goes on until the context is full.)"""

Text = Annotated[str, Meta(min_length=1)]
TokenId = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
TokenLimit = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
Prompt = str | list[int]
"""Text, or token ids."""


class StreamOptions(Struct):
    include_usage: bool | None = None


class Request(Struct, kw_only=True):
    """What both endpoints share. None is unset, and stands for null too."""

    PROMPT_FIELD: ClassVar[str]

    model: str | None = None
    max_tokens: TokenLimit | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    n: Annotated[int, Meta(ge=1, le=contract.MAX_CHOICES)] | None = None
    seed: Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=contract.MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Extensions, named as other servers name them.
    top_k: Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)] | None = None  # 0 and -1: off
    min_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Meta(ge=0.01, le=10)] | None = None

    @property
    def choices(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())

    def with_stop(self, text: str) -> Self:
        """One more stop string, unless there are as many as there may be."""
        if len(self.stops) >= contract.MAX_STOP_STRINGS:
            return self
        return msgspec.structs.replace(self, stop=[*self.stops, text])

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def token_limit(self) -> tuple[str, int | None]:
        """The field that sets the limit, for errors, and the limit; None is until the context is full."""
        return "max_tokens", self.max_tokens


class CompletionRequest(Request, kw_only=True):
    PROMPT_FIELD = "prompt"

    prompt: str | Annotated[list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]], Meta(min_length=1)]

    @property
    def prompts(self) -> list[Prompt]:
        """Raises InvalidRequest for a list of several kinds."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        kinds = {type(item) for item in self.prompt}
        if len(kinds) > 1:
            raise InvalidRequest(
                "'prompt' must be a string, an array of strings, an array of token ids or an array of arrays of those.",
                param="prompt",
            )
        if kinds == {int}:
            return [self.prompt]  # type: ignore[list-item]  # every item is an int
        return self.prompt  # type: ignore[return-value]  # none is

    @property
    def token_limit(self) -> tuple[str, int | None]:
        return "max_tokens", COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens


# ---- Chat messages, one Struct a role


class TextPart(Struct):
    type: Literal["text"]
    text: str


Content = str | Annotated[list[TextPart], Meta(min_length=1)]


class FunctionCall(Struct):
    name: str
    arguments: str


class ToolCall(Struct):
    id: str
    type: Literal["function"]
    function: FunctionCall


class SystemMessage(Struct, tag_field="role", tag="system"):
    content: Content
    name: str | None = None


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    content: Content
    name: str | None = None


class UserMessage(Struct, tag_field="role", tag="user"):
    content: Content
    name: str | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    content: Content | None = None
    name: str | None = None
    tool_calls: list[ToolCall] | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None  # not in OpenAI's API, but templates ask for it


class FunctionMessage(Struct, tag_field="role", tag="function"):
    content: str | None
    name: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


class ChatRequest(Request, kw_only=True):
    PROMPT_FIELD = "messages"

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: TokenLimit | None = None

    @property
    def token_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is None:
            return "max_tokens", self.max_tokens
        return "max_completion_tokens", self.max_completion_tokens


# ---- What becomes of each key of each object


@dataclass(frozen=True, slots=True)
class Fields:
    mapped: frozenset[str]
    no_effect: frozenset[str] = frozenset()
    """Known to have no effect on the output, whatever their value."""
    neutral: Mapping[str, Sequence[object]] = field(default_factory=dict)
    """Fields that are not supported, with the values that ask for what happens anyway. null always does."""

    def check(self, given: Mapping[str, object], path: str = "") -> None:
        """Raises for a key that would be ignored."""
        for key, value in given.items():
            if key in self.mapped or key in self.no_effect:
                continue
            if key not in self.neutral:
                raise InvalidRequest(f"Unrecognized request argument supplied: {path}{key}", param=path + key)
            # Types are compared too, since 0 == False.
            if value is not None and not any(type(value) is type(same) and value == same for same in self.neutral[key]):
                raise UnsupportedParameter(path + key)


def _mapped(struct: type[Struct]) -> frozenset[str]:
    return frozenset(struct.__struct_fields__)


NO_EFFECT = frozenset({"user"})  # identifies the end user to OpenAI's abuse monitoring

COMPLETION_FIELDS = Fields(
    _mapped(CompletionRequest),
    NO_EFFECT,
    {
        "best_of": (1,),
        "echo": (False,),
        "logit_bias": ({},),
        "logprobs": (),  # even 0 asks for logprobs
        "suffix": ("",),
    },
)

CHAT_FIELDS = Fields(
    _mapped(ChatRequest),
    NO_EFFECT,
    {
        "audio": (),
        "function_call": ("none",),
        "functions": ([],),
        "logit_bias": ({},),
        "logprobs": (False,),
        "metadata": ({},),
        "modalities": (["text"],),
        "moderation": (),
        "parallel_tool_calls": (True, False),  # without tools it says nothing
        "prediction": (),
        "prompt_cache_key": (),
        "prompt_cache_options": (),
        "prompt_cache_retention": (),
        "reasoning_effort": (),
        "response_format": ({"type": "text"},),
        "safety_identifier": (),
        "service_tier": ("auto", "default"),
        "store": (False,),
        "tool_choice": ("none", "auto"),  # without tools, both mean a message
        "tools": ([],),
        "top_logprobs": (0,),
        "verbosity": ("medium",),  # OpenAI's default
        "web_search_options": (),
    },
)

STREAM_OPTIONS_FIELDS = Fields(_mapped(StreamOptions), neutral={"include_obfuscation": (False,)})

_ROLE = frozenset({"role"})
MESSAGE_FIELDS: dict[str, Fields] = {
    "system": Fields(_mapped(SystemMessage) | _ROLE),
    "developer": Fields(_mapped(DeveloperMessage) | _ROLE),
    "user": Fields(_mapped(UserMessage) | _ROLE),
    "assistant": Fields(
        _mapped(AssistantMessage) | _ROLE,
        # What a client sends back of our own answer, and nothing in it.
        neutral={"annotations": ([],), "audio": (), "function_call": (), "refusal": ()},
    ),
    "tool": Fields(_mapped(ToolMessage) | _ROLE),
    "function": Fields(_mapped(FunctionMessage) | _ROLE),
}
TEXT_PART_FIELDS = Fields(_mapped(TextPart), neutral={"prompt_cache_breakpoint": ()})
TOOL_CALL_FIELDS = Fields(_mapped(ToolCall))
FUNCTION_CALL_FIELDS = Fields(_mapped(FunctionCall))


# ---- Parsing


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises InvalidRequest."""
    request = _parse(body, CompletionRequest, COMPLETION_FIELDS)
    if len(request.prompts) * request.choices > MAX_CHOICES:
        raise InvalidRequest(f"More than {MAX_CHOICES} choices (prompts times 'n') were asked for.", param="prompt")
    return request


def parse_chat(body: bytes) -> ChatRequest:
    """Raises InvalidRequest."""
    request = _parse(body, ChatRequest, CHAT_FIELDS)
    limits = {request.max_tokens, request.max_completion_tokens} - {None}
    if len(limits) > 1:
        raise InvalidRequest("'max_tokens' and 'max_completion_tokens' differ; give one of them.", param="max_tokens")
    return request


R = TypeVar("R", bound=Request)
S = TypeVar("S", bound=Struct)


def load(body: bytes) -> dict[str, Any]:
    """Raises InvalidRequest."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(given, dict):
        raise InvalidRequest("The body must be a JSON object.", code="invalid_json")
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
    request = convert(given, struct)
    if isinstance(request, ChatRequest):
        _check_messages(given["messages"])
    if request.stream_options is not None and not request.stream:
        raise InvalidRequest("'stream_options' is only allowed when 'stream' is true.", param="stream_options")
    return request


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
        if message["role"] == "assistant" and content is None and not message.get("tool_calls"):
            raise InvalidRequest("An assistant message needs 'content' or 'tool_calls'.", param=f"{path}content")


# msgspec tells the place only in its message: "Expected `float` <= 2.0 - at `$.temperature`".
_PLACE = re.compile(r"^(?P<problem>.*?)(?: - at `(?:key in )?\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(?P<field>[^`]*)`")


def _invalid(error: msgspec.ValidationError) -> InvalidRequest:
    place = _PLACE.match(str(error))
    assert place is not None  # every part of it is optional
    problem, param = place["problem"], place["path"] or ""
    if missing := _MISSING.search(problem):
        param = f"{param}.{missing['field']}" if param else missing["field"]
        problem = "This field is required"
    return InvalidRequest(f"Invalid '{param}': {problem}.", param=param)
