"""The prompts that are not fully read, and the two orders in which a step serves them. PURE.

*By size*: the smallest priority number first, then size classes, beginning with prompts of at most SHORT_PROMPT tokens,
so that a short prompt never waits for a long one. Within a class, callers take turns, and the prompts of a caller are
ordered by length.

*By turn*, regardless of priority: one prompt is the first in line until it is read. Then the next caller has its turn,
with its oldest prompt. Part of every step is reserved for the first in line, and so is room that becomes free, so no
prompt starves. A preempted prompt comes before all turns.

Equal shares for all waiting prompts would be fair too. But a short prompt beside sixteen long ones would get its first
token after seventeen times its own work, and each long prompt would hold cells until all of them are read.
"""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Generic, Protocol, TypeVar

from anyserve_worker.core.options import SHORT_PROMPT


class HasCaller(Protocol):
    """A prompt with a caller and a priority. It is hashable, by identity."""

    caller: str
    priority: int


Rank = tuple[int, int]
"""Priority and size class."""
Prompt = TypeVar("Prompt", bound=HasCaller)
Work = TypeVar("Work")


def size_class(n_tokens: int) -> int:
    """Returns 0 for at most SHORT_PROMPT tokens, 1 for at most 4 × SHORT_PROMPT, 2 for at most 16 × SHORT_PROMPT, …"""
    return ((n_tokens - 1) // SHORT_PROMPT).bit_length() + 1 >> 1


class _Ring(Generic[Work]):
    """Callers in the order of their turns, each with its waiting work."""

    def __init__(self) -> None:
        self.works: dict[str, Work] = {}
        self._last: str | None = None

    def join(self, caller: str, work: Work) -> Work:
        """Returns the caller's work: `work` for a new caller, whose turn is before the caller served last."""
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
        """(tokens to compute, arrival number) of every prompt in the line, waiting or being read."""
        self._n_arrived = 0
        self._waiting: dict[Prompt, None] = {}
        """Waiting prompts by arrival, without preempted ones."""
        self._resumed: deque[Prompt] = deque()
        """Preempted prompts, which wait to be computed again, latest first."""
        self._ranks: dict[Rank, _Ring[list[tuple[int, int, Prompt]]]] = {}
        """By rank and caller: the waiting prompts, sorted by tokens to compute, then by arrival."""
        self._callers: _Ring[dict[Prompt, None]] = _Ring()
        """By caller: all prompts in the line, by arrival."""
        self._first: Prompt | None = None

    def __len__(self) -> int:
        return len(self._waiting) + len(self._resumed)

    def __iter__(self) -> Iterator[Prompt]:
        yield from self._resumed
        yield from self._waiting

    def __contains__(self, prompt: Prompt) -> bool:
        """Whether the prompt is in the line, waiting or being read."""
        return prompt in self._places

    # ---- Coming and going

    def add(self, prompt: Prompt, n_needed: int) -> None:
        """Adds a waiting prompt. `n_needed`: tokens to compute."""
        self._enter(prompt, n_needed)
        self._waiting[prompt] = None
        callers = self._ranks.setdefault(self.rank(prompt), _Ring())
        insort(callers.join(prompt.caller, []), (*self._places[prompt], prompt))

    def put_back(self, prompt: Prompt, n_needed: int) -> None:
        """Puts a preempted prompt before all others."""
        if prompt not in self._places:
            self._enter(prompt, n_needed)
        self._resumed.appendleft(prompt)

    def start(self, prompt: Prompt, n_needed: int) -> None:
        """Admits a waiting prompt, which stays in the line until it is read. `n_needed` replaces that of `add`."""
        number = self._places[prompt][1]
        if prompt in self._waiting:
            self._ranks[self.rank(prompt)].had_turn(prompt.caller)
            self._stop_waiting(prompt)
        else:
            self._resumed.remove(prompt)
        self._places[prompt] = n_needed, number

    def leave(self, prompt: Prompt) -> None:
        """Removes a prompt that is read or cancelled."""
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
        """Returns the rank of a prompt in the line, which does not change while the prompt is read."""
        return prompt.priority, size_class(self._places[prompt][0])

    def first(self) -> Prompt | None:
        """Returns the first in line, waiting or being read; None if the line is empty."""
        if self._resumed:
            return self._resumed[0]
        if self._first is None and self._callers.works:
            caller, prompts = next(iter(self._callers.works.items()))
            self._callers.had_turn(caller)
            self._first = next(iter(prompts))
        return self._first

    def by_size(self, n: int) -> list[Prompt]:
        """Returns at most `n` waiting prompts: preempted ones first, then by rank."""
        result = list(islice(self._resumed, n))
        for rank in sorted(self._ranks):
            lines = list(islice(self._ranks[rank].works.values(), n))
            turn = 0
            while len(result) < n and (prompts := [line[turn][2] for line in lines if turn < len(line)]):
                result += prompts
                turn += 1
        return result[:n]

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
        if not lines and prompt.priority:  # Clients choose the priority, so unused ranks would accumulate.
            del self._ranks[rank]
