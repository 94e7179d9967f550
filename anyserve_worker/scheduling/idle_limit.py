"""How long an unused cached prefix is kept. PURE.

It costs nothing to keep but time: llama.cpp's attention passes over all cells up to the last one in use, and 2,000 of
others' cells make a small model's step half as long again. (Not where attention is ours, see native/: with it,
6,000 could not be measured on x86.)

The limit adapts: it shrinks by 10 % with each eviction, and doubles when an evicted prefix had to be computed again.
"""

from array import array
from collections import deque
from dataclasses import dataclass, field

from anyserve_worker.core.prefix_key import PrefixKey
from anyserve_worker.scheduling.prefix import shared_prefix

MIN_IDLE_TOKENS, FIRST_IDLE_TOKENS, MAX_IDLE_TOKENS = 32.0, 200.0, 2.0**30
"""Generated tokens, of all sequences together. With a small model on a CPU, to have passed over a prefix's cells costs
as much as to compute it after about 1,000."""
SHRINK_FACTOR, GROWTH_FACTOR = 0.9, 2.0
MISSED_TOKENS = 16
"""Tokens that have to be computed again for an eviction to be missed."""
N_REMEMBERED = 64
"""Evicted prefixes whose return is noticed."""


@dataclass(slots=True)
class IdleLimit:
    tokens: float = FIRST_IDLE_TOKENS
    """Generated tokens, of all sequences together, that an unused prefix outlives."""
    _evicted: "deque[tuple[array[int], PrefixKey]]" = field(
        init=False, default_factory=lambda: deque(maxlen=N_REMEMBERED)
    )

    def record_eviction(self, tokens: "array[int]", key: PrefixKey) -> None:
        """A prefix was evicted because of this limit."""
        self._evicted.append((tokens, key))
        self.tokens = max(self.tokens * SHRINK_FACTOR, MIN_IDLE_TOKENS)

    def record_use(self, tokens: "array[int]", key: PrefixKey, n_cached: int) -> None:
        """A sequence has found its first `n_cached` tokens: were there more of them before an eviction?"""
        for evicted in self._evicted:
            if min(shared_prefix(*evicted, tokens, key), len(tokens) - 1) >= n_cached + MISSED_TOKENS:
                self.tokens = min(self.tokens * GROWTH_FACTOR, MAX_IDLE_TOKENS)
                self._evicted.remove(evicted)
                return
