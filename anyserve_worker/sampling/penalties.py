"""Penalties on tokens that occurred before. The cost of each grows with the tokens that it looks back at. PURE.

A choice looks back at its own tokens and at the prompt, which it shares with other choices. The state of the prompt is
computed once.
"""

from typing import Protocol

import numpy as np
import numpy.typing as npt

from anyserve_worker.sampling.draw import DirectSampler, Logits, TokenIds


class Penalty(Protocol):
    def apply(self, logits: Logits) -> None:
        """Changes the logits in place."""

    def accept(self, token: int) -> None:
        """Records a sampled token."""


class Penalizing:
    """Applies penalties one after the other before it draws a token."""

    def __init__(self, penalties: list[Penalty], drawing: DirectSampler) -> None:
        self._penalties = penalties
        self._drawing = drawing

    def sample(self, logits: Logits) -> int:
        for penalty in self._penalties:
            penalty.apply(logits)
        token = self._drawing.sample(logits)
        self.accept(token)
        return token

    def accept(self, token: int) -> None:
        for penalty in self._penalties:
            penalty.accept(token)


class Recency:
    """The distinct tokens of a prompt, latest first. Shared by its choices."""

    def __init__(self, prompt: npt.NDArray[np.int32]) -> None:
        distinct, from_the_end = np.unique(prompt[::-1], return_index=True)
        order = np.argsort(from_the_end)
        self.tokens: TokenIds = distinct[order].astype(np.int64)
        self.distances: npt.NDArray[np.int64] = from_the_end[order] + 1
        """Distance of each token's last occurrence from the end of the prompt, ascending."""


class Window:
    """The distinct tokens among the last tokens of a choice, with their counts."""

    def __init__(self, last_n: int) -> None:
        """`last_n`: tokens to look back at, at least one."""
        self._last_n = last_n
        self._accepted: list[int] = []
        self._place: dict[int, int] = {}
        self._tokens: TokenIds = np.zeros(16, dtype=np.int64)
        self._counts: Logits = np.zeros(16, dtype=np.float32)

    @property
    def tokens(self) -> TokenIds:
        return self._tokens[: len(self._place)]

    @property
    def counts(self) -> Logits:
        return self._counts[: len(self._place)]

    def accept(self, token: int) -> None:
        self._accepted.append(token)
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._tokens):
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._tokens[place] = token
        self._counts[place] += 1
        if len(self._accepted) > self._last_n:
            self._forget(self._accepted[-1 - self._last_n])

    def _forget(self, token: int) -> None:
        place = self._place[token]
        self._counts[place] -= 1
        if not self._counts[place]:
            # The last token moves to the freed place.
            end = len(self._place) - 1
            last = int(self._tokens[end])
            self._tokens[place], self._counts[place] = last, self._counts[end]
            self._counts[end] = 0
            self._place[last] = place
            del self._place[token]


class RepetitionPenalty:
    """Makes tokens of the prompt and the output less likely."""

    def __init__(self, penalty: float, last_n: int, prompt: Recency) -> None:
        self._penalty = np.float32(penalty)
        self._last_n = last_n
        self._prompt = prompt
        self._n_in_prompt = int(prompt.distances.searchsorted(last_n, side="right"))
        self._n_accepted = 0
        self._output = Window(last_n)

    def apply(self, logits: Logits) -> None:
        # A token in both parts gets the same value twice.
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
    """OpenAI's presence and frequency penalties, which look at generated tokens only."""

    def __init__(self, presence: float, frequency: float, last_n: int) -> None:
        self._presence = np.float32(presence)
        self._frequency = np.float32(frequency)
        self._output = Window(last_n)

    def apply(self, logits: Logits) -> None:
        output = self._output
        logits[output.tokens] -= output.counts * self._frequency + self._presence

    def accept(self, token: int) -> None:
        self._output.accept(token)
