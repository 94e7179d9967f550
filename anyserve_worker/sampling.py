"""The two most frequent ways to sample, on the logits as they are; and log probabilities. PURE.

llama.cpp's sampler chain copies the whole vocabulary into an array of candidates for each token; for greedy decoding
and for plain temperature that is most of what sampling costs. Everything else goes through the chain.
"""

import math
import random
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from anyserve_worker.request import SamplingParams

Logits = npt.NDArray[np.float32]
"""Shape [n_vocab]."""
TokenIds = npt.NDArray[np.int64]

MIN_TEMPERATURE = 1e-6
"""What is lower is greedy, which it equals; divided by much less, logits become infinite and the text garbage."""

BLOCK = 256
"""Tokens."""


class DirectSampler(Protocol):
    def sample(self, logits: Logits) -> int: ...


class Greedy:
    """The likeliest token; the first of equals, as in llama.cpp."""

    def sample(self, logits: Logits) -> int:
        return int(logits.argmax())


class Scratch:
    """Room for one distribution, made once: arrays of this size would come from the system and go back each time."""

    def __init__(self, n_vocab: int) -> None:
        self.n_vocab = n_vocab
        self.weights = np.zeros(-(-n_vocab // BLOCK) * BLOCK, dtype=np.float32)
        """Zero beyond the vocabulary."""


class Plain:
    """Any token, with the probability softmax(logits / temperature), by inversion of the distribution function.

    The function is summed up in blocks, so that most of it need not be looked at token by token.
    """

    def __init__(self, temperature: float, seed: int, scratch: Scratch) -> None:
        self._inverse = np.float32(1 / temperature)
        self._random = random.Random(seed)
        self._scratch = scratch

    def sample(self, logits: Logits) -> int:
        padded = self._scratch.weights
        weights = padded[: self._scratch.n_vocab]
        np.subtract(logits, logits.max(), out=weights)
        np.multiply(weights, self._inverse, out=weights)
        np.exp(weights, out=weights)
        blocks = padded.reshape(-1, BLOCK)
        # In double precision: a vocabulary's small probabilities add up to more than single precision resolves.
        block, within = _invert(blocks.sum(axis=1).cumsum(dtype=np.float64), self._random.random())
        token, _ = _invert(blocks[block].cumsum(dtype=np.float64), within)
        return block * BLOCK + token


def _invert(cumulated: npt.NDArray[np.float64], fraction: float) -> tuple[int, float]:
    """The item that lies at a fraction (0 ≤, < 1) of the whole, and the fraction of that item. Never an empty one."""
    at = min(fraction * cumulated[-1], np.nextafter(cumulated[-1], 0))
    item = int(cumulated.searchsorted(at, side="right"))
    start = cumulated[item - 1] if item else 0.0
    return item, float((at - start) / (cumulated[item] - start))


def direct_sampler(sampling: SamplingParams, seed: int, scratch: Scratch) -> DirectSampler | None:
    """None if it takes llama.cpp's chain. `seed` is that of this choice."""
    if sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty:
        return None
    if sampling.dry_multiplier:
        return None
    if sampling.temperature < MIN_TEMPERATURE:
        return Greedy()
    truncated = sampling.top_k or sampling.top_p < 1 or sampling.min_p or sampling.typical_p < 1 or sampling.top_n_sigma
    if not (truncated or sampling.xtc_probability or sampling.mirostat):
        return Plain(sampling.temperature, seed, scratch)
    return None


# ---- Log probabilities


class Score(NamedTuple):
    """ln p of a token, and of the likeliest in its place: (token, ln p), likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Distribution:
    """softmax(logits), as logarithms, with the `n_top` likeliest tokens."""

    def __init__(self, logits: Logits, n_top: int) -> None:
        self._logits = logits
        greatest = float(logits.max())
        self._log_sum = greatest + math.log(float(np.exp(logits - np.float32(greatest)).sum(dtype=np.float64)))
        self._top = tuple((token, self._logprob(token)) for token in _likeliest(logits, n_top))

    def score(self, token: int) -> Score:
        return Score(token, self._logprob(token), self._top)

    def _logprob(self, token: int) -> float:
        return float(self._logits[token]) - self._log_sum


def _likeliest(logits: Logits, n: int) -> list[int]:
    """In their order; of equals the first."""
    n = min(n, len(logits))
    if not n:
        return []
    candidates = np.flatnonzero(logits >= np.partition(logits, -n)[-n])
    order = np.argsort(-logits[candidates], kind="stable")
    return [int(token) for token in candidates[order[:n]]]
