"""What a choice's text has to match: a guide becomes a matcher, which computes before each token which can come next.

llguidance computes that lazily and within limits, so a grammar that would explode fails its own request, at once; one
that already explodes while it is compiled does that in a process of its own (`trial.py`).
"""

from collections.abc import Callable, Sequence
from time import thread_time

import numpy as np
from llguidance import LLMatcher

from anyserve_common.text import ends_in_escape
from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.guides import translation
from anyserve_worker.guides.errors import explained
from anyserve_worker.guides.translation import GrammarError
from anyserve_worker.guides.trial import Trials
from anyserve_worker.sampling.draw import Logits
from protos import contract

MAX_SOURCE = 1 << 18
"""Characters. A grammar for the calls of 60 tools has 115,000 in some formats."""
SECONDS_PER_TOKEN = 0.01
"""Processor time in the engine's steps, on average. The masks of real schemas take less than a millisecond."""
SPARE_SECONDS = 0.25
"""What a choice may take beyond that."""


class VocabularyGuides:
    """Compiles guides for one vocabulary. Safe from any thread."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        control: Callable[[int], bool],
        end_tokens: Sequence[int],
        tokenize: Callable[[str], Sequence[int]],
    ) -> None:
        """`tokens` as they are written. `control`: whether a token is no text.

        A grammar names a control token `<…>` by its text; one that is written otherwise, such as `[TOOL_CALLS]`, as
        `<|[TOOL_CALLS]|>`.
        """
        self._n_vocab = len(tokens)
        special = [token for token in range(len(tokens)) if control(token)]
        named = list(tokens)
        for token in special:
            named[token] = _name(tokens[token])
        self._tokenizer = translation.tokenizer(named, special, end_tokens, tokenize) if end_tokens else None
        self._trials = Trials(len(tokens), [named[token] for token in special])

    def start(self) -> None:
        """Starts what compiles guides, so that the first does not wait for it."""
        if self._tokenizer:
            self._trials.start()

    def check(self, guide: Guide) -> None:
        """Raises InvalidRequest for what need not be compiled to be refused. Takes no time."""
        if self._tokenizer is None:
            raise _refused(guide, "this model has no token that ends an answer")
        if len(guide.source) > MAX_SOURCE:
            raise _refused(guide, f"longer than {MAX_SOURCE} characters")
        if guide.tensor is contract.REGEX and ends_in_escape(guide.source):  # llguidance takes it for nothing
            raise _refused(guide, "it ends with a backslash that escapes nothing")

    def try_guide(self, guide: Guide, seconds: float) -> str:
        """The guide in llguidance's own form, if compiling it takes at most `seconds` of processor time.

        Raises InvalidRequest, naming the tensor, TrialOverrun if the time does not suffice, TrialLost or Draining.
        """
        self.check(guide)
        try:
            return self._trials.run(guide.language, guide.source, seconds)
        except GrammarError as error:
            raise _refused(guide, *explained(guide.tensor.name, guide.source, str(error))) from None

    def compile(self, guide: Guide, translated: str) -> "Matcher":
        """From what `try_guide` returned; takes as long as it did. Raises InvalidRequest."""
        assert self._tokenizer is not None
        try:
            return Matcher(translation.compiled(self._tokenizer, translated), self._n_vocab, guide)
        except GrammarError as error:
            raise _refused(guide, *explained(guide.tensor.name, guide.source, str(error))) from None

    def close(self) -> None:
        """Ends the trial processes, whatever they do."""
        self._trials.close()


class Matcher:
    """Implements sequence.Guide."""

    def __init__(self, matcher: LLMatcher, n_vocab: int, guide: Guide) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._guide = guide
        self._spare = SPARE_SECONDS
        self.ended = False

    def copy(self) -> "Matcher":
        """For another choice, from where this one is."""
        return Matcher(self._matcher.deep_copy(), self._n_vocab, self._guide)

    def mask(self, logits: Logits) -> None:
        """Raises InvalidRequest if the guide has become too complex, or holds up the engine's steps for too long."""
        before = thread_time()
        mask = self._matcher.compute_bitmask()
        self._spare = min(SPARE_SECONDS, self._spare + SECONDS_PER_TOKEN) - (thread_time() - before)
        if self._matcher.is_error():
            raise _refused(self._guide, f"it became too complex: {translation.problem(self._matcher)}")
        if self._spare < 0:
            raise _refused(self._guide, "it is too complex: computing which tokens may come next takes too long")
        allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
        logits[allowed[: self._n_vocab] == 0] = -np.inf

    def accept(self, token: int) -> None:
        before = thread_time()
        accepted = self._matcher.consume_token(token)
        self._spare -= thread_time() - before
        if not accepted:
            raise _refused(self._guide, f"it cannot go on: {translation.problem(self._matcher)}")
        self.ended = self._matcher.is_stopped()


def _name(token: bytes) -> bytes:
    return token if token.startswith(b"<") and token.endswith(b">") else b"<|" + token + b"|>"


def _refused(guide: Guide, problem: str, part: str = "") -> InvalidRequest:
    return InvalidRequest(f"tensor '{guide.tensor.name}': {problem}", tensor=guide.tensor.name, part=part)
