"""What a step added to one choice. PURE."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from anyserve_worker.core.logprob import TokenLogprob


@dataclass(slots=True)  # not frozen: one for each token, and frozen ones take three times as long to make
class Delta:
    """What one step added to one choice. Counts are totals so far."""

    index: int
    text: str
    finish_reason: str | None
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    marked_tokens: int | None = None
    """None: there is no mark."""


def merge(deltas: Iterable[Delta]) -> list[Delta]:
    """One delta a choice, in the order of their indexes."""
    by_index: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [joined(parts) for _, parts in sorted(by_index.items())]


def joined(parts: Sequence[Delta]) -> Delta:
    """Deltas of one choice, in order, as one."""
    if len(parts) == 1:
        return parts[0]
    logprobs = tuple(logprob for part in parts for logprob in part.logprobs)
    return replace(parts[-1], text="".join(part.text for part in parts), logprobs=logprobs)
