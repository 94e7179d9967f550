"""The prompts that are not read to their end, and the two orders in which a step serves them. PURE.

*By size*: size classes first (prompts of at most SHORT_PROMPT tokens are the first), so that a short prompt never
waits for a long one. Within a class callers take turns, and a caller's own prompts go by their length.

*By turn*: one prompt is the first in line until it is read. Then the next caller has its turn, with its oldest prompt.
A part of every step belongs to the first in line, and so does room that becomes free: hence no prompt starves. A prompt
that had to give way comes before all turns.

Equal shares for all waiting prompts would be fair too, but a short prompt beside sixteen long ones would get its first
token after seventeen times its own work, and every long prompt would hold its cells half read for as long as all take.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, TypeVar

from anyserve_worker.options import SHORT_PROMPT
from anyserve_worker.sequence import Sequence

Work = TypeVar("Work")


def size_class(n_tokens: int) -> int:
    """0 for at most SHORT_PROMPT tokens, 1 for at most four times as many, 2 for at most sixteen times as many, …"""
    return ((n_tokens - 1) // SHORT_PROMPT).bit_length() + 1 >> 1


class _Ring(Generic[Work]):
    """Callers in the order of their turns, each with its work."""

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self._last: str | None = None

    def join(self, caller: str, work: Work) -> Work:
        """The caller's work; `work` if it has none yet. A new caller comes before the one that had the last turn."""
        if caller not in self.works:
            self.works[caller] = work
            if self._last is not None:
                self._to_the_end(self._last)
        return self.works[caller]

    def had_turn(self, caller: str) -> None:
        self._last = caller
        self._to_the_end(caller)

    def _to_the_end(self, caller: str) -> None:
        if caller in self.works:
            self.works[caller] = self.works.pop(caller)


class PromptLine:
    """Iterates over the waiting prompts: those that gave way first, then in the order of arrival."""

    def __init__(self) -> None:
        self._places: dict[Sequence, tuple[int, int]] = {}
        """(tokens to compute, number by arrival) of every prompt in the line, waiting or being read."""
        self._n_arrived = 0
        self._waiting: dict[Sequence, None] = {}
        """In the order of arrival, without those that gave way."""
        self._resumed: deque[Sequence] = deque()
        """Gave way, and wait to be computed again."""
        self._classes: dict[int, _Ring[list[tuple[int, int, Sequence]]]] = {}
        """The waiting prompts of each size class: each caller's sorted by tokens to compute, then by arrival."""
        self._callers: _Ring[dict[Sequence, None]] = _Ring()
        """All prompts in the line: each caller's by arrival."""
        self._first: Sequence | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resumed)

    def __iter__(self) -> Iterator[Sequence]:
        yield from self._resumed
        yield from self._waiting

    def __contains__(self, sequence: Sequence) -> bool:
        """Whether the prompt is not read to its end."""
        return sequence in self._places

    # ---- Coming and going

    def add(self, sequence: Sequence, n_needed: int) -> None:
        """`n_needed`: tokens that have to be computed."""
        self._enter(sequence, n_needed)
        self._waiting[sequence] = None
        callers = self._classes.setdefault(size_class(n_needed), _Ring())
        insort(callers.join(sequence.caller, []), (*self._places[sequence], sequence))

    def put_back(self, sequence: Sequence) -> None:
        """The sequence gave way: it waits before all others."""
        if sequence not in self._places:
            self._enter(sequence, len(sequence.tokens))
        self._resumed.appendleft(sequence)

    def start(self, sequence: Sequence) -> None:
        """The sequence waits no more. It stays in the line until its prompt is read."""
        if sequence not in self._waiting:
            self._resumed.remove(sequence)
            return
        self._stop_waiting(sequence)
        self._classes[self.size(sequence)].had_turn(sequence.caller)

    def leave(self, sequence: Sequence) -> None:
        """The prompt is read, or unwanted."""
        if sequence in self._waiting:
            self._stop_waiting(sequence)
        elif sequence in self._resumed:
            self._resumed.remove(sequence)
        del self._places[sequence]
        prompts = self._callers.works[sequence.caller]
        del prompts[sequence]
        if not prompts:
            del self._callers.works[sequence.caller]
        if self._first is sequence:
            self._first = None

    # ---- The orders

    def size(self, sequence: Sequence) -> int:
        """The size class of a prompt in the line. It does not change while the prompt is read."""
        return size_class(self._places[sequence][0])

    def first(self) -> Sequence | None:
        """The first in line, waiting or being read. None if the line is empty."""
        if self._resumed:
            return self._resumed[0]
        if self._first is None and self._callers.works:
            caller, prompts = next(iter(self._callers.works.items()))
            self._callers.had_turn(caller)
            self._first = next(iter(prompts))
        return self._first

    def by_size(self, most: int) -> list[Sequence]:
        """At most `most` waiting prompts, those that gave way first, then by size."""
        found = list(islice(self._resumed, most))
        for size in sorted(self._classes):
            lines = list(islice(self._classes[size].works.values(), most))
            turn = 0
            while len(found) < most and (prompts := [line[turn][2] for line in lines if turn < len(line)]):
                found += prompts
                turn += 1
        return found[:most]

    # ---- Inside

    def _enter(self, sequence: Sequence, n_needed: int) -> None:
        self._n_arrived += 1
        self._places[sequence] = n_needed, self._n_arrived
        self._callers.join(sequence.caller, {})[sequence] = None

    def _stop_waiting(self, sequence: Sequence) -> None:
        del self._waiting[sequence]
        lines = self._classes[self.size(sequence)].works
        line = lines[sequence.caller]
        del line[bisect_left(line, self._places[sequence], key=lambda entry: entry[:2])]
        if not line:
            del lines[sequence.caller]
