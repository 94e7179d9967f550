"""The `usage` of answers: token counts. PURE."""

from collections.abc import Iterable

from msgspec import UNSET, Struct, UnsetType

from openai_server.core import usage as usage_core


class PromptTokensDetails(Struct):
    cached_tokens: int


class CompletionTokensDetails(Struct):
    reasoning_tokens: int


class Usage(Struct):
    """Token counts of completions and chats. Details that the backend doesn't count are absent."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | UnsetType = UNSET
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET


class TaskUsage(Struct):
    """Token counts of requests that generate nothing."""

    prompt_tokens: int
    total_tokens: int


def usage(counts: usage_core.Usage | None) -> Usage | None:
    """None if the backend doesn't count."""
    if counts is None:
        return None
    return Usage(
        counts.prompt,
        counts.completion,
        counts.prompt + counts.completion,
        UNSET if counts.cached is None else PromptTokensDetails(counts.cached),
        UNSET if counts.marked is None else CompletionTokensDetails(counts.marked),
    )


def task_usage(counts: Iterable[int | None]) -> TaskUsage | None:
    """The sum of the counts; None if the backend doesn't count."""
    n = 0
    for count in counts:
        if count is None:
            return None
        n += count
    return TaskUsage(n, n)
