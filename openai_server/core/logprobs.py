"""Log probabilities of tokens. PURE."""

from collections.abc import Sequence
from typing import NamedTuple


class TokenLogprob(NamedTuple):
    """ln p of a token, and of the likeliest in its place. None: nothing precedes it, so it has none."""

    token: bytes
    logprob: float | None
    top: Sequence[tuple[bytes, float]]


Logprobs = Sequence[TokenLogprob]
