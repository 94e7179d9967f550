"""Requests to generate, as Structs, and what follows from their fields. PURE."""

from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from msgspec import Meta, Struct

from openai_server.api.schemas.bounds import MAX_MESSAGES, MAX_TOOLS
from openai_server.api.schemas.tool_choice import AllowedToolChoice, FunctionName, NamedTool, ToolChoice
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from protos import contract
from protos.tensors import Packed

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
Prompt = str | list[int] | Packed
"""Text, or token ids."""


def prompts_of(given: str | Packed | list[Any], field: str) -> list[Prompt]:
    """One text, one list of token ids, or a list of either. Raises InvalidRequest for a list of several kinds."""
    if isinstance(given, str | Packed):
        return [given]
    kinds = {type(item) for item in given}
    if len(kinds) > 1:
        raise InvalidRequest(
            f"'{field}' must be a string, an array of strings, an array of token ids or an array of arrays of those.",
            param=field,
        )
    return [given] if kinds == {int} else given


class StreamOptions(Struct):
    include_usage: bool | None = None


class TextFormat(Struct, tag_field="type", tag="text"):
    pass


class JsonObjectFormat(Struct, tag_field="type", tag="json_object"):
    schema: dict[str, Any] | None = None  # not in OpenAI's API; llama-server takes it here


class NamedSchema(Struct):
    name: Annotated[
        str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+(?!\n)$")
    ]  # Python's $ lets a line break follow
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
    priority: Annotated[int, Meta(ge=0, le=contract.INT32_MAX)] | None = None  # vLLM; the smaller the sooner
    # At most one of these four says what the text has to match.
    response_format: ResponseFormat | None = None
    json_schema: dict[str, Any] | None = None
    regex: Text | None = None
    grammar: str | None = None  # GBNF

    @property
    def choices(self) -> int:
        """Choices for each prompt."""
        return self.n or 1

    @property
    def generated(self) -> int:
        """Choices that are generated for each prompt; the answer has the best `choices` of them."""
        return self.choices

    @property
    def chooses_best(self) -> bool:
        """More choices are generated than returned."""
        return False

    @property
    def generated_if_said(self) -> int | None:
        """None if the request says nothing of how many."""
        n_generated = self.generated
        return None if self.n is None and n_generated == 1 else n_generated

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
    def strict_schema(self) -> bool:
        """Whether a keyword of `schema` that can't be enforced is an error. Otherwise it is left out."""
        format = self.response_format
        return isinstance(format, JsonSchemaFormat) and bool(format.json_schema.strict)

    @property
    def guides(self) -> list[str]:
        """The fields that say what the text has to match."""
        guides = []
        if self.response_format is not None and not isinstance(self.response_format, TextFormat):
            guides.append("response_format")
        if self.json_schema is not None:
            guides.append("json_schema")
        if self.regex is not None:
            guides.append("regex")
        if self.grammar is not None:
            guides.append("grammar")
        return guides

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

    @property
    def most_tokens(self) -> int | None:
        """For each choice; None is until the context is full."""
        return self.token_limit[1]


class CompletionRequest(Request, kw_only=True):
    PROMPT_FIELD = "prompt"

    prompt: str | Annotated[list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]], Meta(min_length=1)]
    best_of: Annotated[int, Meta(ge=1, le=contract.MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def generated(self) -> int:
        return self.best_of or self.n or 1

    @property
    def chooses_best(self) -> bool:
        return self.best_of is not None and self.best_of > (self.n or 1)

    @property
    def top_tokens(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[Prompt]:
        """Raises InvalidRequest for a list of several kinds."""
        return prompts_of(self.prompt, "prompt")

    @property
    def token_limit(self) -> tuple[str, int | None]:
        return "max_tokens", COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens


class ChatRequest(Request, kw_only=True):
    PROMPT_FIELD = "messages"

    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
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
                if not tools:
                    return None
                return ToolUse(tools, must=allowed.mode == "required", parallel=parallel)

    @property
    def token_limit(self) -> tuple[str, int | None]:
        if self.max_completion_tokens is None:
            return "max_tokens", self.max_tokens
        return "max_completion_tokens", self.max_completion_tokens
