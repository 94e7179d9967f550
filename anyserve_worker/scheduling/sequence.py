"""One sequence: the tokens of one choice, and how far the model has read them. PURE.

Invariants:
- `tokens` is the prompt, then every sampled token, in order; it only grows.
- The KV cells of `tokens[:n_computed]` exist in llama sequence `seq_id` while the sequence is running.
- Computing the last token gives the logits of the next one, so a running sequence always has one to compute.
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
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.scheduling.prompt_lookup import PromptLookup
from anyserve_worker.text.echo import Echo
from anyserve_worker.text.logprobs import LogprobOutput
from anyserve_worker.text.output import TextOutput
from anyserve_worker.text.reasoning_counter import ReasoningCounter

NO_SEQ_ID = -1


def token_array(tokens: Items[int] = ()) -> "array[int]":
    """Tokens as int32, llama.cpp's `llama_token`: compared and copied at the speed of memory."""
    return array("i", tokens)


class Sampler(Protocol):
    """Made and used by the model runner only."""

    def sample(self, row: int) -> int:
        """The next token, from the logits of this row of the last step."""


@dataclass(slots=True, eq=False)
class Sequence:
    """`eq=False`: a sequence is itself, whatever its tokens are."""

    index: int
    """Which choice of its request."""
    tokens: "array[int]"
    n_prompt: int
    limit: int
    """Length of `tokens` at which the choice ends with `length`: its max_tokens, or the context."""
    sampling: SamplingParameters
    output: TextOutput
    sampler: Sampler | None = None
    """Made when the sequence is first scheduled, kept when it is preempted."""
    lookup: PromptLookup = field(default_factory=PromptLookup)
    seq_id: int = NO_SEQ_ID
    n_computed: int = 0
    n_cached: int = field(default=-1)
    """Tokens found in the KV cache when the sequence first ran; -1 before."""
    guide: GuideMatcher | None = None
    reasoning: ReasoningCounter | None = None
    """None: not counted."""
    error: WorkerError | None = None
    """The sequence cannot go on."""
    echo: Echo | None = None
    """Comes before all that is generated; None when it is out."""
    special: bool = False
    """Control tokens are part of the text."""
    logprobs: LogprobOutput | None = None
    scored: deque[TokenScore] = field(default_factory=deque)
    """Scores of the tokens whose probability is wanted, in order: added by the model runner, removed by the engine."""
    caller: str = ""
    """The caller that shares the worker with others."""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""
    prefix_key: PrefixKey = TEXT_KEY
    """What its cells depend on besides `tokens`."""
    scores_prompt: bool = False
    n_scored: int = 1
    """Tokens of the prompt of which that is done. The first follows nothing."""

    @property
    def wants_scores(self) -> bool:
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
