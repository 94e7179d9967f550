"""Log probabilities of single tokens, as they are sampled and as they are sent to the client. PURE."""

from dataclasses import dataclass
from typing import NamedTuple


class TokenScore(NamedTuple):
    """A token id and its ln p. `top`: (id, ln p) of the likeliest tokens at its position, likeliest first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """The bytes of a token and its ln p. `top`: the likeliest tokens at its position, likeliest first.

    `logprob` is NaN for the first token of a prompt, which nothing precedes.
    """

    token: bytes
    logprob: float
    top: tuple[tuple[bytes, float], ...] = ()
