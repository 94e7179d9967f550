"""Draws a token from logits, greedily or by temperature, and computes log probabilities. PURE.

For each token, llama.cpp's sampler chain copies the whole vocabulary into an array of candidates, and walks or sorts it
several times. Here a token costs a few passes of numpy over the logits, and work on short lists.
"""

import math
import random
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from anyserve_worker.core.logprob import TokenScore
from anyserve_worker.sampling.selection import highest

Logits = npt.NDArray[np.float32]
"""Shape [n_vocab]."""
TokenIds = npt.NDArray[np.int64]

MIN_TEMPERATURE = 1e-6
"""Lower temperatures are greedy, with the same result. Logits divided by much less become infinite."""

BLOCK = 256
"""Tokens whose weights are summed as one block."""


class DirectSampler(Protocol):
    def sample(self, logits: Logits) -> int:
        """Returns the next token. May change the logits, which belong to this token only."""

    def accept(self, token: int) -> None:
        """Takes a token that was not drawn, as the next one of the choice."""


class Greedy:
    """Takes the likeliest token; among equals the first, as in llama.cpp."""

    def sample(self, logits: Logits) -> int:
        return int(logits.argmax())

    def accept(self, token: int) -> None:
        """Has no effect: earlier tokens don't matter."""


class Scratch:
    """Buffers for one distribution, reused because allocating arrays of this size costs a system call each time."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.weights = np.zeros(-(-n_vocab // BLOCK) * BLOCK, dtype=np.float32)
        self.shifted = np.zeros(n_vocab, dtype=np.float32)
        self.products = np.zeros(n_vocab, dtype=np.float32)


class Drawn(NamedTuple):
    at: int
    """Index into the logits."""
    probability: float


class Draw:
    """Draws an index with the probability softmax(logits / temperature), by inversion of the distribution function.

    The function is summed in blocks, so that only one block is summed token by token.
    """

    def __init__(self, temperature: float, random_: random.Random, scratch: Scratch) -> None:
        self._inverse = np.float32(1 / temperature)
        self._random = random_
        self._scratch = scratch

    def __call__(self, logits: Logits) -> Drawn:
        """Draws from at most n_vocab logits, in an order that does not depend on small differences between them."""
        n = len(logits)
        padded = self._scratch.weights[: -(-n // BLOCK) * BLOCK]
        padded[n:] = 0
        weights = padded[:n]
        np.subtract(logits, logits.max(), out=weights)
        np.multiply(weights, self._inverse, out=weights)
        np.exp(weights, out=weights)
        blocks = padded.reshape(-1, BLOCK)
        # A vocabulary's small probabilities need double precision when they are summed.
        cumulated = blocks.sum(axis=1).cumsum(dtype=np.float64)
        block, within = _invert(cumulated, self._random.random())
        index, _ = _invert(blocks[block].cumsum(dtype=np.float64), within)
        index += block * BLOCK
        return Drawn(index, float(weights[index] / cumulated[-1]))


class Plain:
    """Draws any token, with the probability softmax(logits / temperature)."""

    def __init__(self, temperature: float, seed: int, scratch: Scratch) -> None:
        self._draw = Draw(temperature, random.Random(seed), scratch)

    def sample(self, logits: Logits) -> int:
        return self._draw(logits).at

    def accept(self, token: int) -> None:
        """Has no effect: earlier tokens don't matter."""


def _invert(cumulated: npt.NDArray[np.float64], fraction: float) -> tuple[int, float]:
    """Returns the non-empty item at a fraction of the whole, and the fraction within it. Both are 0 ≤ fraction < 1."""
    at = min(fraction * cumulated[-1], np.nextafter(cumulated[-1], 0))
    item = int(cumulated.searchsorted(at, side="right"))
    start = cumulated[item - 1] if item else 0.0
    return item, float((at - start) / (cumulated[item] - start))


# ---- Log probabilities


class Distribution:
    """softmax(logits), as logarithms, with the `n_top` likeliest tokens."""

    def __init__(self, logits: Logits, n_top: int) -> None:
        self._logits = logits
        greatest = float(logits.max())
        self._log_sum = greatest + math.log(float(np.exp(logits - np.float32(greatest)).sum(dtype=np.float64)))
        self._top = tuple((token, self._logprob(token)) for token in _likeliest(logits, n_top))

    def score(self, token: int) -> TokenScore:
        return TokenScore(token, self._logprob(token), self._top)

    def _logprob(self, token: int) -> float:
        return float(self._logits[token]) - self._log_sum


def _likeliest(logits: Logits, n: int) -> list[int]:
    """Returns the `n` likeliest tokens, likeliest first; among equals the first."""
    if not n:
        return []
    candidates = highest(logits, n)
    if len(candidates) < n:
        impossible = (logits == -np.inf).nonzero()[0]
        candidates = np.concatenate((candidates, impossible[: n - len(candidates)]))
    order = np.argsort(-logits[candidates], kind="stable")
    return [int(token) for token in candidates[order]]
