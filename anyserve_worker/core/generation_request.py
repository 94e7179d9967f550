"""What a client can request of a model that generates text. PURE.

`service/request.py` reads it out of tensors and checks every value; the engine trusts what it gets.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from anyserve_worker.core.guide import Guide
from anyserve_worker.core.prefix_key import TEXT_KEY, PrefixKey
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.core.spans import Spans


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    prompt: str | Sequence[int]
    """Text, or token ids that are used as they are."""
    plain: Spans = ()
    """Spans of a text in which no special token is read."""
    max_tokens: int | None = None
    """Tokens to generate per choice, at most; None: until the context is full."""
    n: int = 1
    """Choices, at least 1."""
    stop: tuple[str, ...] = ()
    """Strings that end a choice and are not part of its text."""
    echo: bool = False
    """Each choice begins with the prompt."""
    suffix: str | None = None
    """Text behind the generated one, which fills the middle; None: nothing is filled in."""
    skip_special_tokens: bool = True
    """Control tokens are not part of the text."""
    guide: Guide | None = None
    mark_begin: str = ""
    """Tokens up to `mark_end` are counted only in a text that begins with this; empty: in any."""
    mark_end: tuple[str, ...] = ()
    """Tokens up to the first of these are counted; empty: none are."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    """The caller that shares the worker with others; all requests without a name have the empty one in common."""
    prefix_key: PrefixKey = TEXT_KEY
    """Adapter and media, on which the cells of the prompt depend."""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""
