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

MAX_TOOLS = 128
MAX_CHOICES = 2048
"""Most choices of one request, prompts times `n`: the answer is built in memory."""

INT64_MAX = 2**63 - 1
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for completions. (Chat has none: it goes on until the context is full.)"""

ANY_OBJECT = {"type": "object"}
"""As a JSON Schema."""

Text = Annotated[str, Meta(min_length=1)]
TokenId = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
TokenLimit = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
LastTokens = Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)]
"""So many tokens back; -1: to the beginning."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=0.01, le=10)]
Bias = Annotated[float, Meta(ge=-100, le=100)]
Prompt = str | list[int]
"""Text, or token ids."""


class StreamOptions(Struct):
    include_usage: bool | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    schema: dict[str, Any] | None = None  # not in OpenAI's API; llama-server takes it here


class NamedSchema(Struct):
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-zA-Z0-9_-]+$")]
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchemaFormat(Struct, tag_field="type", tag="json_schema"):
    json_schema: NamedSchema


ResponseFormat = TextFormat | JsonObjectFormat | JsonSchemaFormat


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
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=contract.MAX_LOGIT_BIAS)] | None = None
    # Extensions, named as other servers name them.
    top_k: Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)] | None = None  # 0 and -1: off
    min_p: Fraction | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1)] | None = None  # 0 and -1: off
    repetition_penalty: Penalty | None = None  # vLLM
    repeat_penalty: Penalty | None = None  # llama.cpp, for the same
    repeat_last_n: LastTokens | None = None
    xtc_probability: Fraction | None = None
    xtc_threshold: Fraction | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: TokenLimit | None = None
    dry_penalty_last_n: LastTokens | None = None
    dry_sequence_breakers: Annotated[list[Text], Meta(max_length=contract.MAX_STOP_STRINGS)] | None = None
    mirostat: Literal[0, 1, 2] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Fraction | None = None
    min_tokens: TokenLimit | None = None
    ignore_eos: bool | None = None
    stop_token_ids: Annotated[list[TokenId], Meta(max_length=contract.MAX_TOKEN_LIST)] | None = None
    skip_special_tokens: bool | None = None
    # At most one of these four says what the text has to match.
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = None
    regex: Text | None = None
    grammar: Text | None = None  # GBNF

    @property
    def choices(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def generated(self) -> int:
        """Choices that are generated for each prompt; the answer has the best `choices` of them."""
        return self.choices

    @property
    def top_tokens(self) -> int | None:
        """How many of the likeliest tokens the answer tells with each token; None: no log probabilities."""
        return None

    @property
    def schema(self) -> dict[str, Any] | None:
        """JSON Schema that the text has to be valid against."""
        match self.response_format:
            case JsonSchemaFormat(json_schema=named):
                return named.schema or ANY_OBJECT
            case JsonObjectFormat(schema=schema):
                return schema or ANY_OBJECT
        return self.json_schema

    @property
    def guides(self) -> list[str]:
        """The fields that say what the text has to match."""
        guides = [name for name in ("json_schema", "regex", "grammar") if getattr(self, name) is not None]
        formatted = self.response_format is not None and not isinstance(self.response_format, TextFormat)
        return ["response_format", *guides] if formatted else guides

    @property
    def penalty(self) -> float | None:
        return self.repetition_penalty if self.repeat_penalty is None else self.repeat_penalty

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
    best_of: Annotated[int, Meta(ge=1, le=contract.MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def generated(self) -> int:
        return self.best_of or self.choices

    @property
    def top_tokens(self) -> int | None:
        return self.logprobs

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


class FunctionDefinition(Struct):
    name: Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_.-]{1,64}$")]  # OpenAI's names, and dots
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(Struct):
    type: Literal["function"]
    function: FunctionDefinition


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
    function_call: FunctionCall | None = None  # of the older API: the one tool call
    reasoning_content: str | None = None  # not in OpenAI's API; other servers name it so


class ToolMessage(Struct, tag_field="role", tag="tool"):
    content: Content
    tool_call_id: str
    name: str | None = None  # not in OpenAI's API, but templates ask for it


class FunctionMessage(Struct, tag_field="role", tag="function"):
    content: str | None
    name: str


Message = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage


# ---- What the model may do with the tools


class FunctionName(Struct):
    name: str


class NamedTool(Struct, tag_field="type", tag="function"):
    function: FunctionName


class AllowedTools(Struct):
    mode: Literal["auto", "required"]
    tools: list[NamedTool]


class AllowedToolChoice(Struct, tag_field="type", tag="allowed_tools"):
    allowed_tools: AllowedTools


ToolChoice = Literal["none", "auto", "required"] | NamedTool | AllowedToolChoice


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that the model may call, in either API's words."""

    tools: Sequence[Tool]
    must: bool = False
    """The answer is a call."""
    named: str | None = None
    """Of this function."""
    parallel: bool = True
    """There may be several."""
    legacy: bool = False
    """They are the older API's functions, and so is the call."""


class ChatRequest(Request, kw_only=True):
    PROMPT_FIELD = "messages"

    messages: Annotated[list[Message], Meta(min_length=1)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=contract.MAX_LOGPROBS)] | None = None
    tools: Annotated[list[Tool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Meta(max_length=MAX_TOOLS)] | None = None
    function_call: Literal["none", "auto"] | FunctionName | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    # Extensions, for templates.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None

    @property
    def top_tokens(self) -> int | None:
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def tool_use(self) -> ToolUse | None:
        """None if the model is not to call anything."""
        if self.functions:
            if self.function_call == "none":
                return None
            named = self.function_call.name if isinstance(self.function_call, FunctionName) else None
            tools = [Tool("function", function) for function in self.functions]
            return ToolUse(tools, named is not None, named, parallel=False, legacy=True)
        parallel = self.parallel_tool_calls is not False
        match self.tool_choice:
            case _ if not self.tools:
                return None
            case None | "auto":
                return ToolUse(self.tools, parallel=parallel)
            case "none":
                return None
            case "required":
                return ToolUse(self.tools, must=True, parallel=parallel)
            case NamedTool(function=function):
                return ToolUse(self.tools, must=True, named=function.name, parallel=False)
            case AllowedToolChoice(allowed_tools=allowed):
                names = {tool.function.name for tool in allowed.tools}
                tools = [tool for tool in self.tools if tool.function.name in names]
                return ToolUse(tools, must=allowed.mode == "required", parallel=parallel)

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

COMPLETION_FIELDS = Fields(_mapped(CompletionRequest), NO_EFFECT)

CHAT_FIELDS = Fields(
    _mapped(ChatRequest),
    NO_EFFECT
    | {
        "metadata",  # labels of a stored answer; nothing is stored here
        "prediction",  # a hint that may make the answer come sooner
        "prompt_cache_key",  # routes to a server with a warm cache; there is one server
        "prompt_cache_options",  # prefixes are always cached
        "prompt_cache_retention",
        "safety_identifier",  # as `user`
        "service_tier",  # which queue of OpenAI's; there is one
        "store",  # nothing is stored, which the answer doesn't show
    },
    {
        "audio": (),
        "modalities": (["text"],),
        "moderation": (),
        "verbosity": ("medium",),  # OpenAI's default
        "web_search_options": (),
    },
)

STREAM_OPTIONS_FIELDS = Fields(_mapped(StreamOptions), neutral={"include_obfuscation": (False,)})

RESPONSE_FORMAT_FIELDS = {
    "text": Fields(frozenset({"type"})),
    "json_object": Fields(frozenset({"type", "schema"})),
    "json_schema": Fields(frozenset({"type", "json_schema"})),
}
NAMED_SCHEMA_FIELDS = Fields(frozenset({"name", "schema"}), frozenset({"description", "strict"}))  # always strict

_ROLE = frozenset({"role"})
MESSAGE_FIELDS: dict[str, Fields] = {
    "system": Fields(_mapped(SystemMessage) | _ROLE),
    "developer": Fields(_mapped(DeveloperMessage) | _ROLE),
    "user": Fields(_mapped(UserMessage) | _ROLE),
    "assistant": Fields(
        _mapped(AssistantMessage) | _ROLE,
        # What a client sends back of our own answer, and nothing in it.
        neutral={"annotations": ([],), "audio": (), "refusal": ()},
    ),
    "tool": Fields(_mapped(ToolMessage) | _ROLE),
    "function": Fields(_mapped(FunctionMessage) | _ROLE),
}
TEXT_PART_FIELDS = Fields(_mapped(TextPart), neutral={"prompt_cache_breakpoint": ()})
TOOL_CALL_FIELDS = Fields(_mapped(ToolCall))
FUNCTION_CALL_FIELDS = Fields(_mapped(FunctionCall))
TOOL_FIELDS = Fields(_mapped(Tool))
FUNCTION_FIELDS = Fields(_mapped(FunctionDefinition))
TOOL_CHOICE_FIELDS = {
    "function": Fields(_mapped(NamedTool) | {"type"}),
    "allowed_tools": Fields(_mapped(AllowedToolChoice) | {"type"}),
}
ALLOWED_TOOLS_FIELDS = Fields(_mapped(AllowedTools))


# ---- Parsing


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises InvalidRequest."""
    request = _parse(body, CompletionRequest, COMPLETION_FIELDS)
    if len(request.prompts) * request.generated > MAX_CHOICES:
        raise InvalidRequest(
            f"More than {MAX_CHOICES} choices (prompts times 'n' or 'best_of') were asked for.", param="prompt"
        )
    if request.generated < request.choices:
        raise InvalidRequest("'best_of' must not be less than 'n'.", param="best_of")
    if request.generated > request.choices and request.stream:
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
    if isinstance(format := given.get("response_format"), dict):
        if (fields_of_format := RESPONSE_FORMAT_FIELDS.get(str(format.get("type")))) is not None:
            fields_of_format.check(format, "response_format.")
        if isinstance(named := format.get("json_schema"), dict):
            NAMED_SCHEMA_FIELDS.check(named, "response_format.json_schema.")
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
    for token in request.logit_bias or ():
        if not (token.isascii() and token.isdecimal() and int(token) <= contract.INT32_MAX):
            raise InvalidRequest(f"'logit_bias': {token!r} is no token id.", param="logit_bias")


def _check_tools(request: ChatRequest) -> None:
    if request.tools and request.functions:
        raise InvalidRequest("'functions' is the older form of 'tools'; give one of them.", param="functions")
    _check_functions([tool.function for tool in request.tools or ()], request.tool_choice, "tools", "tool_choice")
    _check_functions(request.functions or (), request.function_call, "functions", "function_call")
    if request.tool_choice == "required" and not request.tools:
        raise InvalidRequest("'tool_choice' is \"required\", but there are no 'tools'.", param="tool_choice")
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
            f"'{choice_param}': there is no function '{min(unknown)}' in '{param}'.", param=choice_param
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
    if isinstance(choice := given.get("tool_choice"), dict):
        TOOL_CHOICE_FIELDS[choice["type"]].check(choice, "tool_choice.")
        if isinstance(allowed := choice.get("allowed_tools"), dict):
            ALLOWED_TOOLS_FIELDS.check(allowed, "tool_choice.allowed_tools.")


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
