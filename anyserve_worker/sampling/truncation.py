"""Truncating samplers (top-k, nucleus, typical and others, in llama.cpp's order) and mirostat. PURE.

None of them sorts the vocabulary. A truncation first finds a bound below which it keeps nothing, in passes over all
logits. The few remaining logits become a list of candidates for all later steps.
"""

import math
import random

import numpy as np

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.sampling.draw import Draw, Drawn, Logits, Scratch, TokenIds
from anyserve_worker.sampling.selection import at_least, heaviest, highest

MIN_LOG_WEIGHT = math.log(1e-30)
"""Minimum logit relative to the likeliest token's. Tokens below it have no probability, or an infinite logarithm."""
MIROSTAT_M = 100
"""Likeliest tokens from which version 1 estimates the distribution's shape, as in the paper and llama.cpp."""


class Truncating:
    """Draws one of the tokens that the truncations keep, with the probability softmax(logits / temperature)."""

    def __init__(self, sampling: SamplingParameters, seed: int, scratch: Scratch) -> None:
        self._sampling = sampling
        self._scratch = scratch
        self._random = random.Random(seed)
        self._draw = Draw(sampling.temperature, self._random, scratch)

    @staticmethod
    def is_needed(sampling: SamplingParameters) -> bool:
        s = sampling
        truncates = s.top_n_sigma or s.top_k > 0 or s.typical_p < 1 or s.top_p < 1 or s.min_p > 0
        return bool(truncates or s.xtc_probability)

    def sample(self, logits: Logits) -> int:
        sampling, scratch = self._sampling, self._scratch
        candidates = _Candidates(logits)
        if sampling.top_n_sigma:
            candidates.keep(at_least(candidates.logits, _sigma_bound(candidates.logits, sampling.top_n_sigma, scratch)))
        if 0 < sampling.top_k < len(candidates.logits):
            candidates.keep(highest(candidates.logits, sampling.top_k))
        if sampling.typical_p < 1:
            candidates.keep(_typical(candidates.logits, sampling.typical_p, scratch))
        if sampling.top_p < 1:
            candidates.keep(_nucleus(candidates.logits, sampling.top_p, scratch))
        if sampling.min_p > 0:
            candidates.keep(
                at_least(candidates.logits, float(candidates.logits.max()) + min(0.0, math.log(sampling.min_p)))
            )
        if sampling.xtc_probability and self._random.random() <= sampling.xtc_probability:
            candidates.logits[_top_choices(candidates.logits, sampling.xtc_threshold, scratch)] = -np.inf
        return candidates.token(self._draw(candidates.logits).at)

    def accept(self, token: int) -> None:
        """Has no effect: earlier tokens don't matter."""


class Mirostat:
    """Version 1 or 2: truncates so that the surprise of drawn tokens, in bits, stays near `mirostat_tau`."""

    def __init__(self, sampling: SamplingParameters, seed: int, scratch: Scratch) -> None:
        self._keep = self._version_1 if sampling.mirostat == 1 else self._version_2
        self._inverse = np.float32(1 / sampling.temperature)
        self._tau, self._eta = sampling.mirostat_tau, sampling.mirostat_eta
        self._mu = 2 * self._tau
        self._scratch = scratch
        self._draw = Draw(1.0, random.Random(seed), scratch)

    def sample(self, logits: Logits) -> int:
        np.multiply(logits, self._inverse, out=logits)
        np.subtract(logits, logits.max(), out=logits)
        candidates = _Candidates(logits)
        candidates.keep(self._keep(logits))
        drawn: Drawn = self._draw(candidates.logits)
        self._mu -= self._eta * (-math.log2(drawn.probability) - self._tau)
        return candidates.token(drawn.at)

    def accept(self, token: int) -> None:
        """Has no effect: only the surprise of drawn tokens matters."""

    def _version_1(self, logits: Logits) -> TokenIds:
        """Returns the k likeliest tokens, where k follows from mu and the estimated exponent of Zipf's law."""
        top = np.sort(logits[highest(logits, MIROSTAT_M)])[::-1].astype(np.float64)
        top = top[top >= MIN_LOG_WEIGHT]
        ranks = np.arange(1, len(top))
        steps = np.log((ranks + 1) / ranks)
        exponent = float((steps * -np.diff(top)).sum() / (steps * steps).sum()) if len(top) > 1 else 0.0
        k = _mirostat_k(exponent, self._mu, self._scratch.n_vocab)
        possible = at_least(logits, MIN_LOG_WEIGHT)
        return possible if k >= len(possible) else highest(logits, max(int(k), 1))

    def _version_2(self, logits: Logits) -> TokenIds:
        """Returns the tokens with a surprise of at most mu, at least one."""
        weights = np.exp(logits, out=self._scratch.weights[: len(logits)])
        bound = math.log(float(weights.sum())) - self._mu * math.log(2)
        if bound > 0:
            return highest(logits, 1)
        return at_least(logits, max(bound, MIN_LOG_WEIGHT))


class _Candidates:
    """The remaining candidates: all tokens, or a list of some, in the order of their ids."""

    def __init__(self, logits: Logits) -> None:
        self.logits = logits
        self._ids: TokenIds | None = None

    def keep(self, indices: TokenIds) -> None:
        """Keeps the candidates at these indices into `logits`: ascending, at least one."""
        if len(indices) == len(self.logits):
            return
        self.logits = self.logits[indices]
        self._ids = indices if self._ids is None else self._ids[indices]

    def token(self, at: int) -> int:
        return at if self._ids is None else int(self._ids[at])


def _sigma_bound(logits: Logits, n: float, scratch: Scratch) -> float:
    """Returns the greatest logit minus `n` standard deviations of all possible logits."""
    possible = logits if logits.min() > -np.inf else logits[logits > -np.inf]
    with np.errstate(over="ignore"):  # With a nearly infinite penalty, the bound keeps all tokens.
        deviations = np.subtract(possible, possible.mean(), out=scratch.products[: len(possible)])
        variance = float(np.multiply(deviations, deviations, out=deviations).mean())
    return float(possible.max()) - n * math.sqrt(variance)


def _nucleus(logits: Logits, p: float, scratch: Scratch) -> TokenIds:
    shifted, weights = _weights(logits, scratch)
    return heaviest(shifted, weights, p * float(weights.sum()), beyond=False)


def _typical(logits: Logits, p: float, scratch: Scratch) -> TokenIds:
    """Returns the tokens whose surprise is nearest to the entropy, with a mass above `p`.

    Surprise and entropy differ by as much as a token's logit and the expected logit.
    """
    shifted, weights = _weights(logits, scratch)
    impossible = shifted < np.float32(MIN_LOG_WEIGHT) if shifted.min() < MIN_LOG_WEIGHT else None
    if impossible is not None:
        shifted[impossible] = MIN_LOG_WEIGHT
    total = weights.sum()
    products = np.multiply(shifted, weights, out=scratch.products[: len(logits)])
    keys = np.subtract(shifted, products.sum() / total, out=products)
    np.negative(np.abs(keys, out=keys), out=keys)
    if impossible is not None:
        keys[impossible] = -np.inf
    return heaviest(keys, weights, p * float(total), beyond=True)


def _top_choices(logits: Logits, threshold: float, scratch: Scratch) -> TokenIds:
    """Returns XTC's tokens to exclude: those at least as likely as the threshold, except the least likely of them."""
    if threshold > 0.5:
        return np.zeros(0, dtype=np.int64)
    shifted, weights = _weights(logits, scratch)
    bound = max(threshold * float(weights.sum()), float(np.finfo(np.float32).tiny))
    above = at_least(weights, bound)
    if len(above) < 2:
        return above[:0]
    at_hand = shifted[above]
    last = (at_hand == at_hand.min()).nonzero()[0][-1]
    return np.delete(above, last)


def _weights(logits: Logits, scratch: Scratch) -> tuple[Logits, Logits]:
    """Returns the logits minus the greatest, and their exponentials. Both are in the scratch buffers."""
    shifted = np.subtract(logits, logits.max(), out=scratch.shifted[: len(logits)])
    return shifted, np.exp(shifted, out=scratch.weights[: len(logits)])


def _mirostat_k(exponent: float, mu: float, n_vocab: int) -> float:
    """Returns mirostat's k, at most n_vocab."""
    beyond = exponent - 1
    k: float
    try:
        k = (beyond * 2**mu / (1 - n_vocab**-beyond)) ** (1 / exponent)
    except ZeroDivisionError:  # The distribution is flat, or the exponent is 1.
        return 1.0
    except OverflowError:
        return float(n_vocab)
    return min(k, float(n_vocab))
