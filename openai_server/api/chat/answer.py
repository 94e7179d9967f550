"""Answers of `/v1/chat/completions`. PURE."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from openai_server.api.timings import PromptProgress, Timings
from openai_server.api.usage import Usage


class LikelyToken(Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChatToken(Struct):
    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[LikelyToken]


class ChatLogprobs(Struct):
    content: list[ChatToken]
    refusal: None


class CalledFunction(Struct):
    name: str
    arguments: str


class CustomCalled(Struct):
    name: str
    input: str


class Called(Struct):
    """A call. It has either `function` or `custom`."""

    id: str
    type: Literal["function", "custom"]
    function: CalledFunction | UnsetType = UNSET
    custom: CustomCalled | UnsetType = UNSET


class AnswerMessage(Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: str | None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[Called] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET


class ChatChoice(Struct):
    index: int
    message: AnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage | None
    timings: Timings | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    """The tier in which the request ran, if it requested one."""


# ---- Events of a stream


class FunctionDelta(Struct, kw_only=True):
    name: str | UnsetType = UNSET
    arguments: str


class CustomDelta(Struct, kw_only=True):
    name: str | UnsetType = UNSET
    input: str


class CallDelta(Struct, kw_only=True):
    """The next piece of a call. It has either `function` or `custom`."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET
    custom: CustomDelta | UnsetType = UNSET


class Delta(Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType | None = UNSET
    refusal: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET


class ChunkChoice(Struct):
    index: int
    delta: Delta
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletionChunk(Struct):
    """An event of a stream. It has `usage`, `timings` and `prompt_progress` only if the client requested them."""

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
    service_tier: str | UnsetType = UNSET
    """As in a whole answer."""
