"""Penalties on tokens that were seen before; each costs what the tokens that it looks back at cost. PURE.

A choice sees its prompt, which it has in common with the other choices, and then its own tokens. What is computed from
the prompt is computed once.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from anyserve_worker.sampling.draw import DirectSampler, Logits, TokenIds


class Penalty(Protocol):
    def apply(self, logits: Logits) -> None:
        """Changes the logits in place."""

    def accept(self, token: int) -> None:
        """The token was sampled."""


class Penalizing:
    """Applies penalties, one after the other, before the token is drawn."""

    def __init__(self, penalties: list[Penalty], drawing: DirectSampler) -> None:
        self._penalties = penalties
        self._drawing = drawing

    def sample(self, logits: Logits) -> int:
        for penalty in self._penalties:
            penalty.apply(logits)
        token = self._drawing.sample(logits)
        for penalty in self._penalties:
            penalty.accept(token)
        return token


class Recency:
    """The distinct tokens of a prompt, the one that came last first. The same for all of its choices."""

    def __init__(self, prompt: npt.NDArray[np.int32]) -> None:
        distinct, from_the_end = np.unique(prompt[::-1], return_index=True)
        order = np.argsort(from_the_end)
        self.tokens: TokenIds = distinct[order].astype(np.int64)
        self.distances: npt.NDArray[np.int64] = from_the_end[order] + 1
        """How many tokens before the end of the prompt each of them stood last, ascending."""


class Window:
    """The distinct tokens among a choice's last ones, and how often each of them is there."""

    def __init__(self, last_n: int) -> None:
        """`last_n`: how many tokens it looks back at, at least one."""
        self._last_n = last_n
        self._accepted: list[int] = []
        self._place: dict[int, int] = {}
        self._room: TokenIds = np.zeros(16, dtype=np.int64)
        self._counts: Logits = np.zeros(16, dtype=np.float32)

    @property
    def tokens(self) -> TokenIds:
        return self._room[: len(self._place)]

    @property
    def counts(self) -> Logits:
        return self._counts[: len(self._place)]

    def accept(self, token: int) -> None:
        self._accepted.append(token)
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._room):
            self._room = np.concatenate((self._room, np.zeros_like(self._room)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._room[place] = token
        self._counts[place] += 1
        if len(self._accepted) > self._last_n:
            self._forget(self._accepted[-1 - self._last_n])

    def _forget(self, token: int) -> None:
        place = self._place[token]
        self._counts[place] -= 1
        if not self._counts[place]:
            # The last one takes its place.
            end = len(self._place) - 1
            last = int(self._room[end])
            self._room[place], self._counts[place] = last, self._counts[end]
            self._counts[end] = 0
            self._place[last] = place
            del self._place[token]


class RepetitionPenalty:
    """Makes less likely what is in the prompt or the output."""

    def __init__(self, penalty: float, last_n: int, prompt: Recency) -> None:
        self._penalty = np.float32(penalty)
        self._last_n = last_n
        self._prompt = prompt
        self._n_in_prompt = int(prompt.distances.searchsorted(last_n, side="right"))
        self._n_accepted = 0
        self._output = Window(last_n)

    def apply(self, logits: Logits) -> None:
        # A token may be in both parts: it gets the same value twice.
        tokens = np.concatenate((self._prompt.tokens[: self._n_in_prompt], self._output.tokens))
        values = logits[tokens]
        logits[tokens] = np.where(values <= 0, values * self._penalty, values / self._penalty)

    def accept(self, token: int) -> None:
        self._output.accept(token)
        self._n_accepted += 1
        visible = self._last_n - self._n_accepted
        while self._n_in_prompt and self._prompt.distances[self._n_in_prompt - 1] > visible:
            self._n_in_prompt -= 1


class CountPenalty:
    """OpenAI's presence and frequency penalties: only of what was generated."""

    def __init__(self, presence: float, frequency: float, last_n: int) -> None:
        self._presence = np.float32(presence)
        self._frequency = np.float32(frequency)
        self._output = Window(last_n)

    def apply(self, logits: Logits) -> None:
        output = self._output
        logits[output.tokens] -= output.counts * self._frequency + self._presence

    def accept(self, token: int) -> None:
        self._output.accept(token)
