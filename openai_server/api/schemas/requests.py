"""Requests for generation as Structs, and their conversion to turns. PURE."""

from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from openai_server.api.schemas.bounds import MAX_MESSAGES, MAX_TOOLS
from openai_server.api.schemas.extras import CLIENT_FIELDS, extras_reader
from openai_server.api.schemas.formats import ResponseFormat, guide_of_format
from openai_server.api.schemas.guides import GuideFields, Text, guide_of
from openai_server.api.schemas.tools import (
    AllowedToolChoice,
    AnyTool,
    NamedCustomTool,
    NamedTool,
    ToolChoice,
    ToolReference,
    function_tool,
)
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message
from openai_server.core.tiers import RequestedTier
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import Guide, Prompt, PromptField, Sampling, TemplateOptions, Turn
from protos import contract
from protos.tensors import Packed

INT64_MAX = 2**63 - 1
COMPLETION_MAX_TOKENS = 16
"""OpenAI's default for completions. Chat has no default: it generates until the context is full."""

TokenId = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
TokenLimit = Annotated[int, Meta(ge=0, le=contract.INT32_MAX)]
LastTokens = Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)]
"""Number of most recent tokens; -1: all."""
ReasoningTokens = Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)]
"""Maximum tokens of reasoning; -1: no limit."""
Fraction = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=0.01, le=10)]
Bias = Annotated[float, Meta(ge=-100, le=100)]


def prompts_of(value: str | Packed | list[Any], field: str) -> list[Prompt]:
    """The prompts in a field: one text, one list of token ids, or a list of either. Raises InvalidRequest for a list of
    several kinds."""
    if isinstance(value, str | Packed):
        return [value]
    kinds = {type(item) for item in value}
    if len(kinds) > 1:
        raise InvalidRequest(
            f"'{field}' must be a string, an array of strings, an array of token ids or an array of arrays of those.",
            param=field,
        )
    return [value] if kinds == {int} else value


class StreamOptions(Struct):
    include_usage: bool | None = None


class GenerationFields(GuideFields, kw_only=True):
    """How to choose tokens, and constraints of the text: fields that all APIs share, with the same names. None is unset
    or null."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(ge=0, le=1)] | None = None
    presence_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=-2, le=2)] | None = None
    seed: Annotated[int, Meta(ge=-INT64_MAX - 1, le=INT64_MAX)] | None = None
    logit_bias: Annotated[dict[str, Bias], Meta(max_length=contract.MAX_LOGIT_BIAS)] | None = None
    # Extensions, named as other servers name them.
    top_k: Annotated[int, Meta(ge=-1, le=contract.INT32_MAX)] | None = None  # 0 and -1: off
    min_p: Fraction | None = None
    typical_p: Fraction | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1)] | None = None  # 0 and -1: off
    repetition_penalty: Penalty | None = None  # vLLM
    repeat_penalty: Penalty | None = None  # llama.cpp's name for `repetition_penalty`
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
    priority: Annotated[int, Meta(ge=0, le=contract.INT32_MAX)] | None = None  # vLLM; smaller values run earlier

    @property
    def guide(self) -> Guide:
        """Raises InvalidRequest if several fields constrain the text."""
        return guide_of(self)

    def _sampling(self) -> Sampling:
        """Needs an attribute `stop`."""
        sampling = Sampling(*_read_sampling(self))
        if self.repeat_penalty is not None:
            sampling = replace(sampling, repetition_penalty=self.repeat_penalty)
        return replace(sampling, stop=[sampling.stop]) if isinstance(sampling.stop, str) else sampling


class Request(GenerationFields, kw_only=True):
    """Fields of both completions and chats. None is unset or null. `response_format` and the GuideFields may set one
    constraint of the text."""

    model: str | None = None
    max_tokens: TokenLimit | None = None
    n: Annotated[int, Meta(ge=1, le=contract.MAX_CHOICES)] | None = None
    stop: Text | Annotated[list[Text], Meta(max_length=contract.MAX_STOP_STRINGS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    timings_per_token: bool | None = None  # llama-server
    return_progress: bool | None = None  # llama-server
    response_format: ResponseFormat | None = None

    @property
    def guide(self) -> Guide:
        """Raises InvalidRequest if several fields constrain the text."""
        guide = guide_of_format(self.response_format)
        return guide_of(self) if guide is None else guide_of(self, guide)

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)

    def prompt_fields(self) -> Iterable[PromptField]:
        """The fields whose length the server may limit before a template renders them."""
        return ()

    def turn(self) -> Turn:
        """The request as a turn."""
        raise NotImplementedError

    # ---- To a turn


_read_sampling = attrgetter(*Sampling.__struct_fields__)
"""Sampling uses the names of this API, except for `repeat_penalty`."""


class CompletionRequest(Request, kw_only=True):
    prompt: str | Annotated[list[str | TokenId | Annotated[list[TokenId], Meta(min_length=1)]], Meta(min_length=1)]
    best_of: Annotated[int, Meta(ge=1, le=contract.MAX_CHOICES)] | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Meta(ge=0, le=5)] | None = None
    suffix: str | None = None

    @property
    def prompts(self) -> list[Prompt]:
        """Raises InvalidRequest for a list of several kinds."""
        return prompts_of(self.prompt, "prompt")

    def prompt_fields(self) -> Iterable[PromptField]:
        yield PromptField("prompt", self.prompts, isinstance(self.prompt, list))
        yield PromptField("suffix", [self.suffix or ""])

    def turn(self) -> Turn:
        """Raises InvalidRequest for prompts of several kinds."""
        names = COMPLETION_NAMES
        if self.best_of is not None and self.best_of != (self.n or 1):
            names = {**names, "n_to_send": "best_of"}
        if self.repeat_penalty is not None:
            names = {**names, "repetition_penalty": "repeat_penalty"}
        n_generated = self.best_of or self.n
        return Turn(
            model=self.model,
            prompts=self.prompts,
            sampling=self._sampling(),
            guide=self.guide,
            token_limit=COMPLETION_MAX_TOKENS if self.max_tokens is None else self.max_tokens,
            has_default_limit=self.max_tokens is None,
            n_to_send=None if n_generated == 1 and self.n is None else n_generated,
            n_returned=self.n or 1,
            top_logprobs=self.logprobs,
            timings=self.timings_per_token,
            progress=self.return_progress,
            echo=self.echo,
            suffix=self.suffix,
            names=names,
        )


COMPLETION_NAMES: Mapping[str, str] = {
    "n_returned": "n",
    "n_to_send": "n",
    "progress": "return_progress",
    "timings": "timings_per_token",
    "token_limit": "max_tokens",
    "top_logprobs": "logprobs",
}
CHAT_NAMES: Mapping[str, str] = {
    **COMPLETION_NAMES,
    "custom_format": "tools[{}].custom.format.grammar.definition",
    "parameters": "tools[{}].function.parameters",
    "prompt": "messages",
    "tool_use": "tool_choice",
}
_FUNCTION_NAMES = {"parameters": "functions[{}].parameters", "tools": "functions", "tool_use": "function_call"}
"""Changes for a request with the older API's functions."""


class ChatRequest(Request, kw_only=True):
    messages: Annotated[list[Message], Meta(min_length=1, max_length=MAX_MESSAGES)]
    max_completion_tokens: TokenLimit | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=contract.MAX_LOGPROBS)] | None = None
    tools: Annotated[list[AnyTool], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    functions: Annotated[list[FunctionDefinition], Meta(max_length=MAX_TOOLS)] | None = None
    function_call: Literal["none", "auto"] | ToolReference | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    # Extensions, for templates.
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    enable_thinking: bool | None = None
    # The limit of reasoning. At most one of these three may have a value other than -1.
    thinking_token_budget: ReasoningTokens | None = None  # vLLM
    reasoning_budget_tokens: ReasoningTokens | None = None  # llama-server
    thinking_budget_tokens: ReasoningTokens | None = None  # llama-server's other name
    # For backends that take chats. Elsewhere they have no effect, so that each takes any value.
    metadata: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    safety_identifier: Any = None
    store: Any = None
    user: Any = None
    service_tier: RequestedTier | None = None
    """How urgent the request is. A backend that takes chats gets it too."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """For the same backends. Others refuse it, except `medium`, which is OpenAI's default."""

    @property
    def all_tools(self) -> list[Tool]:
        """The tools of the request, in the current or the older form."""
        if self.functions:
            return [function_tool(function) for function in self.functions]
        return [tool.tool() for tool in self.tools or ()]

    @property
    def tool_use(self) -> ToolUse | None:
        """None if the answer must not call tools."""
        tools = self.all_tools
        if self.functions:
            if self.function_call == "none":
                return None
            name = self.function_call.name if isinstance(self.function_call, ToolReference) else None
            return ToolUse(tools, name is not None, name, parallel=False, legacy=True)
        parallel = self.parallel_tool_calls is not False
        match self.tool_choice:
            case _ if not tools:
                return None
            case None | "auto":
                return ToolUse(tools, parallel=parallel)
            case "none":
                return None
            case "required":
                return ToolUse(tools, must_call=True, parallel=parallel)
            case NamedTool(name=name) | NamedCustomTool(name=name):
                return ToolUse(tools, must_call=True, function_name=name, parallel=False)
            case AllowedToolChoice(allowed_tools=allowed):
                names = {tool.name for tool in allowed.tools}
                tools = [tool for tool in tools if tool.name in names]
                if not tools:
                    return None
                return ToolUse(tools, must_call=allowed.mode == "required", parallel=parallel)

    def turn(self) -> Turn:
        names, limit = CHAT_NAMES, self.max_tokens
        tools: list[Tool] = []
        use = None
        if self.tools or self.functions:
            tools, use = self.all_tools, self.tool_use
        if self.functions:
            names = {**names, **_FUNCTION_NAMES}
        if self.max_completion_tokens is not None:
            names, limit = {**names, "token_limit": "max_completion_tokens"}, self.max_completion_tokens
        if self.repeat_penalty is not None:
            names = {**names, "repetition_penalty": "repeat_penalty"}
        reasoning_limit = None
        for name, value in reasoning_limits_of(self).items():
            names, reasoning_limit = {**names, "reasoning_limit": name}, value
        return Turn(
            model=self.model,
            messages=self.messages,
            tools=tools,
            tool_use=use,
            template=TemplateOptions(*_read_template(self)),
            sampling=self._sampling(),
            guide=self.guide,
            token_limit=limit,
            reasoning_limit=reasoning_limit,
            n_to_send=self.n,
            n_returned=self.n or 1,
            top_logprobs=(self.top_logprobs or 0) if self.logprobs else None,
            timings=self.timings_per_token,
            progress=self.return_progress,
            extras=_extras_of(self),
            names=names,
        )


_extras_of = extras_reader((*CLIENT_FIELDS, "prediction", "verbosity"))


def reasoning_limits_of(request: Request) -> dict[str, int]:
    """The fields of a chat or response that limit reasoning, with their values."""
    values = _read_reasoning_limits(request)
    if values == _NO_LIMITS:  # as in most requests
        return {}
    limits = zip(_REASONING_LIMITS, values, strict=True)
    return {name: value for name, value in limits if value is not None and value >= 0}


_REASONING_LIMITS = ("thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens")
_read_reasoning_limits = attrgetter(*_REASONING_LIMITS)
_NO_LIMITS = (None,) * len(_REASONING_LIMITS)
_read_template = attrgetter(*TemplateOptions.__struct_fields__)
"""TemplateOptions uses the names of this API."""


class GenerateRequest(Struct):
    """A turn, and the form of its response."""

    turn: Turn
    stream: bool = False
    include_usage: bool = False
    """Whether a stream ends with the token counts."""
    service_tier: str | None = None
    """The tier that the client requests, and later that in which the request runs; None: it requests none."""

    def report_tier(self, name: str) -> None:
        """Sets the tier that the response reports."""
        self.service_tier = name
