"""llama-server's `timings` and `prompt_progress`, which completions and chats have on request. PURE."""

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from openai_server.core import timings as core
from openai_server.core.answer import Answer

DIGITS = 3
"""Decimal places of the values: the backend measures microseconds."""


class Timings(Struct, kw_only=True):
    """Counts and times of an answer, all choices together. A value that the backend doesn't report is absent, and so is
    the speed of a generation without steps of its own: the prompt's last step gives the first token."""

    prompt_n: int
    """Tokens of the prompt that were computed, without those from the cache."""
    cache_n: int | UnsetType = UNSET
    prompt_ms: float
    prompt_per_token_ms: float | UnsetType = UNSET
    prompt_per_second: float | UnsetType = UNSET
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float | UnsetType = UNSET
    predicted_per_second: float | UnsetType = UNSET


class PromptProgress(Struct, kw_only=True):
    total: int
    cache: int | UnsetType = UNSET
    processed: int
    time_ms: int


def timings_of(measured: core.Timings) -> Timings:
    usage = measured.usage
    n_prompt = usage.prompt - (usage.cached or 0)
    n_steps = usage.completion - measured.n_begun
    return Timings(
        prompt_n=n_prompt,
        cache_n=UNSET if usage.cached is None else usage.cached,
        prompt_ms=round(measured.prompt_ms, DIGITS),
        prompt_per_token_ms=_per_token(n_prompt, measured.prompt_ms),
        prompt_per_second=_per_second(n_prompt, measured.prompt_ms),
        predicted_n=usage.completion,
        predicted_ms=round(measured.completion_ms, DIGITS),
        predicted_per_token_ms=_per_token(n_steps, measured.completion_ms),
        predicted_per_second=_per_second(n_steps, measured.completion_ms),
    )


def answer_timings(answers: Sequence[Answer]) -> Timings | UnsetType:
    """The times of an answer to one prompt; unset if they were not requested."""
    measured = answers[0].timings if len(answers) == 1 else None
    return UNSET if measured is None else timings_of(measured)


def prompt_progress(progress: core.Progress) -> PromptProgress:
    return PromptProgress(
        total=progress.total,
        cache=UNSET if progress.cached is None else progress.cached,
        processed=progress.processed,
        time_ms=int(progress.ms),
    )


def _per_token(n: int, ms: float) -> float | UnsetType:
    return round(ms / n, DIGITS) if n > 0 else UNSET


def _per_second(n: int, ms: float) -> float | UnsetType:
    return round(1e3 * n / ms, DIGITS) if n > 0 and ms > 0 else UNSET
