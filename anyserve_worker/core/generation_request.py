"""A request for generated text, with all values that a client can set. PURE.

`service/request.py` reads it from tensors and checks every value; the engine does not check them again.
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
    """Text, or token ids that are used unchanged."""
    plain: Spans = ()
    """Spans of the prompt in which no special token is recognized."""
    max_tokens: int | None = None
    """Maximum tokens to generate per choice; None: until the context is full."""
    n: int = 1
    """Choices, at least 1."""
    stop: tuple[str, ...] = ()
    """Strings that end a choice and are not part of its text."""
    include_stop: bool = False
    """Whether the text includes the stop string that ended it."""
    echo: bool = False
    """Each choice begins with the prompt."""
    suffix: str | None = None
    """Text that follows the generated text, for infill; None: no infill."""
    skip_special_tokens: bool = True
    """Whether control tokens are left out of the text."""
    guide: Guide | None = None
    mark_begin: str = ""
    """Tokens are counted only if the text begins with this string; empty: always."""
    mark_end: tuple[str, ...] = ()
    """Tokens are counted up to the first of these strings; empty: none are counted."""
    max_marked_tokens: int | None = None
    """Tokens after `mark_begin` before the first string of `mark_end` is written; None: no limit."""
    sampling: SamplingParameters = field(default_factory=SamplingParameters)
    timeout: float | None = None
    """Seconds from arrival; None: no limit."""
    caller: str = ""
    """Callers share the worker fairly. All requests without a name belong to one caller, the empty string."""
    prefix_key: PrefixKey = TEXT_KEY
    """Adapter and media that the KV cells of the prompt depend on."""
    timings: bool = False
    """Whether the times of the request are returned."""
    prompt_progress: bool = False
    """Whether the progress of the prompt is returned, in a stream."""
    priority: int = 0
    """Waiting prompts with a smaller number are computed first."""
