"""Log probabilities of single tokens: as sampled, and as they are sent to a client. PURE."""

from dataclasses import dataclass
from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token id and ln p of it; `top` are the likeliest ones in its place, (id, ln p), likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The bytes of a token and ln p of it; `top` are the likeliest ones in its place, likeliest first.

    `logprob` is NaN for the first token of a prompt, which nothing precedes.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
