"""The prompts that are not read to their end, and the two orders in which a step serves them. PURE.

*By size*: the smallest priority number first, then size classes (prompts of at most SHORT_PROMPT tokens are the
first), so that a short prompt never waits for a long one. Within a class callers take turns, and a caller's own
prompts go by their length.

*By turn*, whatever their priority: one prompt is the first in line until it is read. Then the next caller has its
turn, with its oldest prompt.
A part of every step belongs to the first in line, and so does room that becomes free: hence no prompt starves. A
preempted prompt comes before all turns.

Equal shares for all waiting prompts would be fair too, but a short prompt beside sixteen long ones would get its first
token after seventeen times its own work, and every long prompt would hold its cells half read for as long as all take.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from anyserve_worker.core.options import SHORT_PROMPT


class HasCaller(Protocol):
    """Is itself, whatever its tokens are: it can be a key."""

    caller: str
    priority: int


Rank = tuple[int, int]
"""Priority and size class."""
Prompt = TypeVar("Prompt", bound=HasCaller)
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


class PromptLine(Generic[Prompt]):
    """Iterates over the waiting prompts: preempted ones first, then in the order of arrival."""

    def __init__(self) -> None:
        self._places: dict[Prompt, tuple[int, int]] = {}
        """(tokens to compute, number by arrival) of every prompt in the line, waiting or being read."""
        self._n_arrived = 0
        self._waiting: dict[Prompt, None] = {}
        """In the order of arrival, without preempted ones."""
        self._resumed: deque[Prompt] = deque()
        """Preempted prompts, which wait to be computed again."""
        self._ranks: dict[Rank, _Ring[list[tuple[int, int, Prompt]]]] = {}
        """The waiting prompts of each rank: each caller's sorted by tokens to compute, then by arrival."""
        self._callers: _Ring[dict[Prompt, None]] = _Ring()
        """All prompts in the line: each caller's by arrival."""
        self._first: Prompt | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resumed)

    def __iter__(self) -> Iterator[Prompt]:
        yield from self._resumed
        yield from self._waiting

    def __contains__(self, prompt: Prompt) -> bool:
        """Whether the prompt is not read to its end."""
        return prompt in self._places

    # ---- Coming and going

    def add(self, prompt: Prompt, n_needed: int) -> None:
        """`n_needed`: tokens that have to be computed."""
        self._enter(prompt, n_needed)
        self._waiting[prompt] = None
        callers = self._ranks.setdefault(self.rank(prompt), _Ring())
        insort(callers.join(prompt.caller, []), (*self._places[prompt], prompt))

    def put_back(self, prompt: Prompt, n_needed: int) -> None:
        """The prompt was preempted: it waits before all others."""
        if prompt not in self._places:
            self._enter(prompt, n_needed)
        self._resumed.appendleft(prompt)

    def start(self, prompt: Prompt, n_needed: int) -> None:
        """The prompt waits no more, but stays in the line until it is read. `n_needed` replaces that of `add`."""
        number = self._places[prompt][1]
        if prompt in self._waiting:
            self._ranks[self.rank(prompt)].had_turn(prompt.caller)
            self._stop_waiting(prompt)
        else:
            self._resumed.remove(prompt)
        self._places[prompt] = n_needed, number

    def leave(self, prompt: Prompt) -> None:
        """The prompt is read, or unwanted."""
        if prompt in self._waiting:
            self._stop_waiting(prompt)
        elif prompt in self._resumed:
            self._resumed.remove(prompt)
        del self._places[prompt]
        prompts = self._callers.works[prompt.caller]
        del prompts[prompt]
        if not prompts:
            del self._callers.works[prompt.caller]
        if self._first is prompt:
            self._first = None

    # ---- The orders

    def rank(self, prompt: Prompt) -> Rank:
        """The rank of a prompt in the line. It does not change while the prompt is read."""
        return prompt.priority, size_class(self._places[prompt][0])

    def first(self) -> Prompt | None:
        """The first in line, waiting or being read. None if the line is empty."""
        if self._resumed:
            return self._resumed[0]
        if self._first is None and self._callers.works:
            caller, prompts = next(iter(self._callers.works.items()))
            self._callers.had_turn(caller)
            self._first = next(iter(prompts))
        return self._first

    def by_size(self, n: int) -> list[Prompt]:
        """At most `n` waiting prompts: preempted ones, then by rank."""
        found = list(islice(self._resumed, n))
        for rank in sorted(self._ranks):
            lines = list(islice(self._ranks[rank].works.values(), n))
            turn = 0
            while len(found) < n and (prompts := [line[turn][2] for line in lines if turn < len(line)]):
                found += prompts
                turn += 1
        return found[:n]

    # ---- Inside

    def _enter(self, prompt: Prompt, n_needed: int) -> None:
        self._n_arrived += 1
        self._places[prompt] = n_needed, self._n_arrived
        self._callers.join(prompt.caller, {})[prompt] = None

    def _stop_waiting(self, prompt: Prompt) -> None:
        del self._waiting[prompt]
        rank = self.rank(prompt)
        lines = self._ranks[rank].works
        line = lines[prompt.caller]
        del line[bisect_left(line, self._places[prompt], key=lambda entry: entry[:2])]
        if not line:
            del lines[prompt.caller]
        if not lines and prompt.priority:  # Clients choose the number: there may be any.
            del self._ranks[rank]
