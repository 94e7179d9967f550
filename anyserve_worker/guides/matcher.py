"""Turns a guide into a matcher, which computes the tokens that may follow at each position of a choice.

llguidance computes them lazily and within limits, so a grammar that grows too large fails only its own request. A
grammar that is already too large to compile fails in a separate process (`trial.py`).
"""

from collections.abc import Callable, Sequence
from time import thread_time

import numpy as np
from llguidance import LLMatcher

from anyserve_common.text import ends_in_escape
from anyserve_worker.core.errors import InvalidRequest
from anyserve_worker.core.guide import Guide
from anyserve_worker.guides import translation
from anyserve_worker.guides.errors import explain
from anyserve_worker.guides.translation import GrammarError
from anyserve_worker.guides.trial import Trials
from anyserve_worker.sampling.draw import Logits
from protos import contract

MAX_SOURCE = 1 << 18
"""Maximum characters of a guide. A grammar for the calls of 60 tools has 115,000 in some formats."""
SECONDS_PER_TOKEN = 0.01
"""Average processor time per token that a matcher may use in the engine's steps. Masks of real schemas take < 1 ms."""
SPARE_SECONDS = 0.25
"""Processor time that a choice may use beyond SECONDS_PER_TOKEN."""


class VocabularyGuides:
    """Compiles guides for one vocabulary. Safe from any thread."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        control: Callable[[int], bool],
        end_tokens: Sequence[int],
        tokenize: Callable[[str], Sequence[int]],
    ) -> None:
        """`tokens`: the bytes of each token. `control`: whether a token is a control token.

        A grammar refers to a control token `<…>` by its text, and to any other, such as `[TOOL_CALLS]`, as
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
        """Starts the trial server, so that the first guide does not wait for it."""
        if self._tokenizer:
            self._trials.start()

    def check(self, guide: Guide) -> None:
        """Raises InvalidRequest for a guide that can be refused without compiling it. Takes no time."""
        if self._tokenizer is None:
            raise _refused(guide, "this model has no token that ends an answer")
        if len(guide.source) > MAX_SOURCE:
            raise _refused(guide, f"longer than {MAX_SOURCE} characters")
        if guide.tensor is contract.REGEX and ends_in_escape(guide.source):  # llguidance ignores it.
            raise _refused(guide, "it ends with a backslash that escapes nothing")

    def try_guide(self, guide: Guide, seconds: float) -> str:
        """Returns the guide in llguidance's own form, if compiling it takes at most `seconds` of processor time.

        Raises InvalidRequest with the tensor's name, TrialOverrun if it takes longer, TrialLost or Draining.
        """
        self.check(guide)
        try:
            return self._trials.run(guide.language, guide.source, seconds)
        except GrammarError as error:
            raise _refused(guide, *explain(guide.tensor.name, guide.source, str(error))) from None

    def compile(self, guide: Guide, translated: str) -> "Matcher":
        """Compiles the result of `try_guide`, in about the same time. Raises InvalidRequest."""
        assert self._tokenizer is not None
        try:
            return Matcher(translation.compile_matcher(self._tokenizer, translated), self._n_vocab, guide)
        except GrammarError as error:
            raise _refused(guide, *explain(guide.tensor.name, guide.source, str(error))) from None

    def close(self) -> None:
        """Kills the trial processes."""
        self._trials.close()


class Matcher:
    """Implements `core.guide.GuideMatcher`."""

    def __init__(self, matcher: LLMatcher, n_vocab: int, guide: Guide) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self._guide = guide
        self._spare = SPARE_SECONDS
        self.ended = False

    def copy(self) -> "Matcher":
        """Returns a matcher for another choice, at the same position."""
        return Matcher(self._matcher.deep_copy(), self._n_vocab, self._guide)

    def mask(self, logits: Logits) -> None:
        """Excludes tokens that can't follow. Raises InvalidRequest if the guide becomes too complex or too slow."""
        before = thread_time()
        mask = self._matcher.compute_bitmask()
        self._spare = min(SPARE_SECONDS, self._spare + SECONDS_PER_TOKEN) - (thread_time() - before)
        if self._matcher.is_error():
            raise _refused(self._guide, f"it has become too complex: {translation.problem(self._matcher)}")
        if self._spare < 0:
            raise _refused(self._guide, "it is too complex: computing which tokens may come next takes too long")
        allowed = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), bitorder="little")
        logits[allowed[: self._n_vocab] == 0] = -np.inf

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Returns whether these tokens can come next, one after the other. Doesn't advance."""
        before = thread_time()
        n_accepted = self._matcher.validate_tokens(list(tokens))
        self._spare -= thread_time() - before
        return bool(n_accepted == len(tokens))

    def accept(self, token: int) -> None:
        before = thread_time()
        accepted = self._matcher.consume_token(token)
        self._spare -= thread_time() - before
        if not accepted:
            raise _refused(self._guide, f"its text can't be continued: {translation.problem(self._matcher)}")
        self.ended = self._matcher.is_stopped()


def _name(token: bytes) -> bytes:
    return token if token.startswith(b"<") and token.endswith(b">") else b"<|" + token + b"|>"


def _refused(guide: Guide, problem: str, part: str = "") -> InvalidRequest:
    return InvalidRequest(f"tensor '{guide.tensor.name}': {problem}", tensor=guide.tensor.name, part=part)
