"""What a client can request besides generated text. PURE.

`service/tasks.py` reads these out of tensors. Which of them a model can do depends on the model.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from anyserve_worker.core.spans import Spans


@dataclass(frozen=True, slots=True)
class EmbedRequest:
    prompt: str | Sequence[int]
    """Text, or token ids that are used as they are."""
    pooling: str | None = None
    """One of contract.POOLINGS; None: the model's own."""
    normalize: bool = True
    """The vector gets the length 1."""
    dimensions: int | None = None
    """Elements of the vector to return, the first ones; None: all."""
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    query: str
    document: str
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""


@dataclass(frozen=True, slots=True)
class TokenizeRequest:
    text: str
    plain: Spans = ()
    """Spans of the text in which no special token is read."""
    add_special: bool = False
    """Tokens that the model wants around a text are added, such as BOS."""
    parse_special: bool = True
    """Special tokens are recognised outside of the plain spans."""


@dataclass(frozen=True, slots=True)
class DetokenizeRequest:
    token_ids: Sequence[int]


TaskRequest = EmbedRequest | RankRequest | TokenizeRequest | DetokenizeRequest
