"""Log probabilities of tokens. PURE."""

from collections.abc import Sequence
from typing import NamedTuple


class TokenLogprob(NamedTuple):
    """Log probability of a token, and of the likeliest tokens at its position."""

    token: bytes
    logprob: float | None
    """ln p; None for the first token of a text, which has no probability."""
    top: Sequence[tuple[bytes, float]]
    """The likeliest tokens, each with its log probability."""


Logprobs = Sequence[TokenLogprob]
