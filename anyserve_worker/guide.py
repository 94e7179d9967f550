"""What a choice's text has to match: the only file that imports llguidance.

JSON Schemas, regular expressions and grammars become a matcher, which says before each token which ones can come next.
llguidance computes that lazily and within limits, so a grammar that would explode fails its own request, at once.
"""

from collections.abc import Callable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from anyserve_worker.errors import EngineFailure, InvalidRequest
from anyserve_worker.request import Guide
from anyserve_worker.sampling import Logits
from protos import contract

MAX_SOURCE = 1 << 18
"""Characters."""
MAX_GBNF = 1 << 15
"""Characters of a GBNF grammar, which is translated in Python."""
# Fuel: about 50,000 a millisecond while compiling, 14,000 a millisecond in a step.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=5_000_000, step_lexer_fuel=150_000, step_max_items=50_000, verbose_errors=False
)


class Guides:
    """Compiles guides for one vocabulary. Safe from any thread."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        control: Callable[[int], bool],
        end_tokens: Sequence[int],
        tokenize: Callable[[str], Sequence[int]],
    ) -> None:
        """`tokens` as they are written. `control` says which of them are no text.

        A grammar names a control token `<…>` by its text; one that is written otherwise, such as `[TOOL_CALLS]`, as
        `<|[TOOL_CALLS]|>`.
        """
        self._n_vocab = len(tokens)
        special = [token for token in range(len(tokens)) if control(token)]
        named = list(tokens)
        for token in special:
            named[token] = _name(tokens[token])
        vocabulary = _Vocabulary(named, special, end_tokens[0], tokenize)
        self._tokenizer = LLTokenizer(TokenizerWrapper(vocabulary), eos_token=list(end_tokens))

    def compile(self, guide: Guide) -> "Matcher":
        """Takes milliseconds, in the worst case a tenth of a second. Raises InvalidRequest, naming the tensor."""
        if len(guide.source) > MAX_SOURCE:
            raise _refused(guide, f"longer than {MAX_SOURCE} characters")
        matcher = LLMatcher(self._tokenizer, _grammar(guide), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refused(guide, matcher.get_error())
        return Matcher(matcher, self._n_vocab)


class Matcher:
    """Implements sequence.Guide."""

    def __init__(self, matcher: LLMatcher, n_vocab: int) -> None:
        self._matcher = matcher
        self._n_vocab = n_vocab
        self.ended = False

    def copy(self) -> "Matcher":
        """For another choice, from where this one is."""
        return Matcher(self._matcher.deep_copy(), self._n_vocab)

    def mask(self, logits: Logits) -> None:
        allowed = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), dtype=np.uint8), bitorder="little")
        if self._matcher.is_error():
            raise EngineFailure(f"the grammar became too complex: {self._matcher.get_error()}")
        logits[allowed[: self._n_vocab] == 0] = -np.inf

    def accept(self, token: int) -> None:
        if not self._matcher.consume_token(token):
            raise EngineFailure(f"the grammar cannot go on: {self._matcher.get_error()}")
        self.ended = self._matcher.is_stopped()


class _Vocabulary:
    """What llguidance's TokenizerWrapper wraps."""

    def __init__(
        self, tokens: list[bytes], special: list[int], end: int, tokenize: Callable[[str], Sequence[int]]
    ) -> None:
        self.tokens = tokens
        self.special_token_ids = special
        self.eos_token_id = end
        self.bos_token_id = None
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenize(text))


def _name(token: bytes) -> bytes:
    return token if token.startswith(b"<") and token.endswith(b">") else b"<|" + token + b"|>"


def _grammar(guide: Guide) -> str:
    """In llguidance's own form. Raises InvalidRequest for what is seen before it is compiled."""
    if guide.tensor is contract.LARK:
        return LLMatcher.grammar_from_lark(guide.source)
    if guide.tensor is contract.REGEX:
        return LLMatcher.grammar_from_regex(guide.source)
    if guide.tensor is contract.JSON_SCHEMA:
        return _json_schema(guide)
    if len(guide.source) > MAX_GBNF:
        raise _refused(guide, f"longer than {MAX_GBNF} characters")
    try:
        return LLMatcher.grammar_from_lark(any_to_lark(guide.source))
    except RecursionError:
        raise _refused(guide, "it nests too deeply") from None
    except Exception as error:  # whatever its parser raises
        raise _refused(guide, str(error)) from None


def _json_schema(guide: Guide) -> str:
    try:
        # Compact: where white space is free, a small model writes nothing else.
        return LLMatcher.grammar_from_json_schema(
            guide.source, defaults={"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
        )
    except ValueError as error:
        raise _refused(guide, str(error)) from None


def _refused(guide: Guide, problem: str) -> InvalidRequest:
    return InvalidRequest(f"tensor '{guide.tensor.name}': {problem}", tensor=guide.tensor.name)
