"""Deltas: the output of the steps, choice by choice. PURE."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from anyserve_worker.core.logprob import TokenLogprob
from anyserve_worker.core.request_timer import Progress, Times


@dataclass(slots=True)  # not frozen: there is one per token, and a frozen one takes three times as long to create
class Delta:
    """The output that one step added to one choice. Token counts are totals up to this step."""

    index: int
    text: str
    finish_reason: str | None
    completion_tokens: int
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[TokenLogprob, ...] = ()
    marked_tokens: int | None = None
    """Tokens up to the mark, such as those of reasoning. None: the request has no mark."""
    begins: bool = False
    """Whether this is the first delta of its choice."""
    times: Times | None = None
    """Times of the request up to this step. None: not requested."""
    progress: tuple[Progress, ...] = ()
    """Progress of the prompt, in order. A delta with progress may have no output."""

    @property
    def has_output(self) -> bool:
        return bool(self.text or self.finish_reason or self.logprobs)


def merge(deltas: Iterable[Delta]) -> list[Delta]:
    """Joins the deltas of each choice. Returns one delta per choice, in the order of their indexes."""
    by_index: dict[int, list[Delta]] = {}
    for delta in deltas:
        by_index.setdefault(delta.index, []).append(delta)
    return [join_deltas(parts) for _, parts in sorted(by_index.items())]


def join_deltas(parts: Sequence[Delta]) -> Delta:
    """Joins deltas of one choice, in the order in which they were computed."""
    if len(parts) == 1:
        return parts[0]
    logprobs = tuple(logprob for part in parts for logprob in part.logprobs)
    return replace(
        parts[-1],
        text="".join(part.text for part in parts),
        logprobs=logprobs,
        begins=any(part.begins for part in parts),
        progress=tuple(progress for part in parts for progress in part.progress),
    )
