"""JSON Schemas, regular expressions and grammars to llguidance's matchers.

It is read by the trial process too (`trial_server.py`), which has to start fast: hence nothing heavy is imported here.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from anyserve_worker.guides.lenient import relaxed
from protos import contract

# Within these limits a mask takes at most about 50 ms (EPYC, vocabularies of 49,152 and 262,144 tokens); those of real
# schemas and of up to 60 tools take 0.6 ms. `initial_lexer_fuel` bounds what a matcher holds, too: 100 bytes each.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000, step_lexer_fuel=100_000, step_max_items=10_000, verbose_errors=False
)
_OPTIONS = "x-guidance"
GuideTokenizer = LLTokenizer


class GrammarError(Exception):
    """What is wrong, for its author."""


def tokenizer(
    tokens: Sequence[bytes],
    control: Sequence[int],
    end_tokens: Sequence[int],
    tokenize: Callable[[str], Sequence[int]],
) -> LLTokenizer:
    """`control` are no text; a grammar names them by their `tokens`. At least one end token."""
    vocabulary = _Vocabulary(tokens, control, end_tokens[0], tokenize)
    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=list(end_tokens))


def translate(language: str, source: str) -> str:
    """To llguidance's own form. `language` is that of a guide. Raises GrammarError."""
    try:
        match language:
            case contract.JSON_SCHEMA.name | contract.LENIENT_SCHEMA.name:
                # Compact: where white space is free, a small model writes nothing else.
                return LLMatcher.grammar_from_json_schema(
                    _without_options(source),
                    defaults={
                        "whitespace_flexible": False,
                        "item_separator": ", ",
                        "key_separator": ": ",
                        "lenient": language == contract.LENIENT_SCHEMA.name,
                    },
                )
            case contract.REGEX.name:
                return LLMatcher.grammar_from_regex(source)
            case contract.GRAMMAR.name:
                return LLMatcher.grammar_from_lark(any_to_lark(source))
            case _:
                return LLMatcher.grammar_from_lark(source)
    except RecursionError:
        raise GrammarError("it nests too deeply") from None
    except Exception as error:  # whatever the parser of GBNF raises
        raise GrammarError(str(error)) from None


def _without_options(schema: str) -> str:
    """The schema without llguidance's own options, which could take its strictness away."""
    if _OPTIONS not in schema:
        return schema
    value = json.loads(schema)
    if isinstance(value, dict):
        value.pop(_OPTIONS, None)
    return json.dumps(value)


def tried(tokenizer: LLTokenizer, language: str, source: str) -> str:
    """In llguidance's own form, which compiles. Raises GrammarError."""
    grammar = translate(language, source)
    try:
        compiled(tokenizer, grammar)
        return grammar
    except GrammarError:
        less = relaxed(grammar, partial(_is_refused, tokenizer))
        if less is None:
            raise
    compiled(tokenizer, less)
    return less


def compiled(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """A matcher that has looked for the first token already. Raises GrammarError."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(problem(matcher))
    return matcher


def problem(matcher: LLMatcher) -> str:
    """The error of a matcher that has one, in words for its author."""
    error = matcher.get_error().removesuffix("<non-verbose/>").strip()
    return "nothing matches it" if error == "NoExtensionBias" else error


def _is_refused(tokenizer: LLTokenizer, schema: str) -> bool:
    try:
        compiled(tokenizer, translate(contract.JSON_SCHEMA.name, schema))
        return False
    except GrammarError:
        return True


class _Vocabulary:
    """What llguidance's TokenizerWrapper wraps."""

    def __init__(
        self, tokens: Sequence[bytes], control: Sequence[int], end: int, tokenize: Callable[[str], Sequence[int]]
    ) -> None:
        self.tokens = list(tokens)
        self.special_token_ids = list(control)
        self.eos_token_id = end
        self.bos_token_id = None
        self._tokenize = tokenize

    def __call__(self, text: str) -> list[int]:
        return list(self._tokenize(text))
