"""A sequence: the tokens of one choice, and how many of them the model has computed. PURE.

Invariants:
- `tokens` is the prompt followed by every sampled token, in order. It only grows.
- The KV cells of `tokens[:n_computed]` exist in llama sequence `seq_id` while the sequence is running.
- Computing the last token gives the logits of the next one, so a running sequence always has a token to compute.
"""

from array import array
from collections import deque
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Protocol

from anyserve_worker.core.errors import WorkerError
from anyserve_worker.core.guide import GuideMatcher
from anyserve_worker.core.logprob import TokenScore
from anyserve_worker.core.prefix_key import TEXT_KEY, PrefixKey
from anyserve_worker.core.request_timer import RequestTimer
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.scheduling.prompt_lookup import PromptLookup
from anyserve_worker.text.echo import Echo
from anyserve_worker.text.logprobs import LogprobOutput
from anyserve_worker.text.output import TextOutput
from anyserve_worker.text.reasoning_counter import ReasoningCounter
from anyserve_worker.text.reasoning_limit import ReasoningLimit

NO_SEQ_ID = -1


def token_array(tokens: Items[int] = ()) -> "array[int]":
    """Returns tokens as int32, llama.cpp's `llama_token`, which are compared and copied at memory speed."""
    return array("i", tokens)


class Sampler(Protocol):
    """Created and used by the model runner only."""

    def sample(self, row: int) -> int:
        """Returns the next token, from the logits of this row of the last step."""


@dataclass(slots=True, eq=False)
class Sequence:
    """`eq=False`: sequences are compared by identity, not by their tokens."""

    index: int
    """Index of the choice in its request."""
    tokens: "array[int]"
    n_prompt: int
    limit: int
    """Length of `tokens` at which the choice ends with `length`: its max_tokens, or the context."""
    sampling: SamplingParameters
    output: TextOutput
    sampler: Sampler | None = None
    """Created when the sequence is first scheduled, kept when it is preempted; None before and after."""
    lookup: PromptLookup = field(default_factory=PromptLookup)
    seq_id: int = NO_SEQ_ID
    n_computed: int = 0
    n_cached: int = field(default=-1)
    """Tokens found in the KV cache when the sequence was first admitted; -1 before."""
    guide: GuideMatcher | None = None
    reasoning: ReasoningCounter | None = None
    """None: reasoning tokens aren't counted."""
    reasoning_limit: ReasoningLimit | None = None
    """Used by the sampler. None: reasoning has no limit."""
    error: WorkerError | None = None
    """Set if the sequence can't continue."""
    timer: RequestTimer | None = None
    """The timer of the request; None: neither times nor progress are requested."""
    echo: Echo | None = None
    """Text to send before generated text; None if there is none or it has been sent."""
    special: bool = False
    """Whether control tokens are part of the text."""
    logprobs: LogprobOutput | None = None
    """None: not requested."""
    scored: deque[TokenScore] = field(default_factory=deque)
    """Scores of tokens whose probability is requested, in order. The model runner adds, the engine removes them."""
    caller: str = ""
    """The caller, for fair shares of the worker."""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""
    prefix_key: PrefixKey = TEXT_KEY
    """The adapter and media that the cells depend on besides `tokens`."""
    scores_prompt: bool = False
    """Whether the log probabilities of the prompt's tokens are requested."""
    has_output: bool = False
    """Whether a part of the choice has been delivered."""
    n_scored: int = 1
    """Tokens of the prompt that are scored. The first counts, since it has no score."""

    @property
    def wants_scores(self) -> bool:
        """Whether tokens of the prompt are yet to be scored."""
        return self.scores_prompt and self.n_scored < self.n_prompt

    @property
    def guide_ended(self) -> bool:
        return self.guide is not None and self.guide.ended

    @property
    def n_generated(self) -> int:
        return len(self.tokens) - self.n_prompt

    @property
    def n_remaining(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more while prefilling."""
        return len(self.tokens) - self.n_computed
