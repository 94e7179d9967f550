"""Answers of `/v1/completions`. PURE."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from openai_server.api.timings import PromptProgress, Timings
from openai_server.api.usage import Usage


class CompletionLogprobs(Struct):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Struct):
    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(Struct):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None
    timings: Timings | UnsetType = UNSET


class CompletionChunk(Struct):
    """An event of a stream. It has `usage`, `timings` and `prompt_progress` only if the client requested them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | UnsetType | None = UNSET
    timings: Timings | UnsetType = UNSET
    prompt_progress: PromptProgress | UnsetType = UNSET
