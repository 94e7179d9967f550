"""Token counts of an answer. PURE."""

from collections.abc import Iterable
from typing import NamedTuple


class Usage(NamedTuple):
    """Token counts. `cached` is None if the backend doesn't report it; `marked` also if it wasn't requested."""

    prompt: int
    completion: int
    cached: int | None
    marked: int | None = None
    """Tokens of `completion` up to the first end mark of each choice, such as the end of its reasoning."""


class PromptUsage(NamedTuple):
    """Token counts of a prompt, which are known before the answer is complete. `cached` is None if the backend doesn't
    report it."""

    prompt: int
    cached: int | None


def total_prompt(usages: Iterable[PromptUsage | None]) -> PromptUsage | None:
    """The sum; None if one of the usages is unknown."""
    prompt = 0
    cached: int | None = 0
    for usage in usages:
        if usage is None:
            return None
        prompt += usage.prompt
        cached = None if cached is None or usage.cached is None else cached + usage.cached
    return PromptUsage(prompt, cached)


def total(usages: Iterable[Usage | None]) -> Usage | None:
    """The sum; None if one of the usages is unknown."""
    prompt = completion = 0
    cached: int | None = 0
    marked: int | None = 0
    for usage in usages:
        if usage is None:
            return None
        prompt += usage.prompt
        completion += usage.completion
        cached = None if cached is None or usage.cached is None else cached + usage.cached
        marked = None if marked is None or usage.marked is None else marked + usage.marked
    return Usage(prompt, completion, cached, marked)
