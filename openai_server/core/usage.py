"""Token counts of an answer. PURE."""

from collections.abc import Iterable
from typing import NamedTuple


class Usage(NamedTuple):
    """Numbers of tokens; None if the backend does not say, of `marked` also if nobody asked."""

    prompt: int
    completion: int
    cached: int | None
    marked: int | None = None
    """Tokens of `completion` up to a choice's mark."""


def total(usages: Iterable[Usage | None]) -> Usage | None:
    """The sum, or None if one of them is unknown."""
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
