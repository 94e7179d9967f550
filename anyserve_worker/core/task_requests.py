"""Requests for tasks other than text generation. PURE.

`service/tasks.py` reads them from tensors. Which tasks are supported depends on the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from anyserve_worker.core.spans import Spans


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    prompt: str | Sequence[int]
    """Text, or token ids that are used unchanged."""
    pooling: str | None = None
    """One of contract.POOLINGS; None: the model's own."""
    normalize: bool = True
    """Whether to scale the vector to length 1."""
    dimensions: int | None = None
    """Number of leading elements of the vector to return; None: all."""
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    priority: int = 0
    """Waiting prompts with a smaller number are computed first."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    query: str
    document: str
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    priority: int = 0
    """Waiting prompts with a smaller number are computed first."""


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    text: str
    plain: Spans = ()
    """Spans of the text in which no special token is recognized."""
    add_special: bool = False
    """Whether to add the tokens that the model expects around a text, such as BOS."""
    parse_special: bool = True
    """Whether to recognize special tokens outside the plain spans."""


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    token_ids: Sequence[int]


TaskRequest = EmbedRequest | RankRequest | TokenizeRequest | DetokenizeRequest
