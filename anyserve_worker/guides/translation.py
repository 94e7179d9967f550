"""Turns JSON Schemas, regular expressions and grammars into llguidance's matchers.

The trial server (`trial_server.py`) imports this module and has to start fast, so nothing heavy is imported here.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial

from llguidance import LLMatcher, LLParserLimits, LLTokenizer, TokenizerWrapper
from llguidance.gbnf_to_lark import any_to_lark

from anyserve_worker.guides.lenient import relax
from protos import contract

# Within these limits a mask takes at most about 50 ms (EPYC, vocabularies of 49,152 and 262,144 tokens); for real
# schemas and up to 60 tools, 0.6 ms. `initial_lexer_fuel` also bounds a matcher's memory: 100 bytes per unit.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000, step_lexer_fuel=100_000, step_max_items=10_000, verbose_errors=False
)
_OPTIONS = "x-guidance"
GuideTokenizer = LLTokenizer


class GrammarError(Exception):
    """The guide is wrong. The message is for its author."""


def tokenizer(
    tokens: Sequence[bytes],
    control: Sequence[int],
    end_tokens: Sequence[int],
    tokenize: Callable[[str], Sequence[int]],
) -> LLTokenizer:
    """`control`: ids of the control tokens, which a grammar refers to by their `tokens`. At least one end token."""
    vocabulary = _Vocabulary(tokens, control, end_tokens[0], tokenize)
    return LLTokenizer(TokenizerWrapper(vocabulary), eos_token=list(end_tokens))


def translate(language: str, source: str) -> str:
    """Returns the guide in llguidance's own form. `language` is `Guide.language`. Raises GrammarError."""
    try:
        match language:
            case contract.JSON_SCHEMA.name | contract.LENIENT_SCHEMA.name:
                # Compact, because a small model may write endless white space where it is allowed.
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
    except Exception as error:  # The GBNF parser raises various types.
        raise GrammarError(str(error)) from None


def _without_options(schema: str) -> str:
    """Returns the schema without llguidance's own options, which could make it lenient."""
    if _OPTIONS not in schema:
        return schema
    value = json.loads(schema)
    if isinstance(value, dict):
        value.pop(_OPTIONS, None)
    return json.dumps(value)


def translate_and_try(tokenizer: LLTokenizer, language: str, source: str) -> str:
    """Returns the guide in llguidance's own form, relaxed if it is lenient, after compiling it. Raises GrammarError."""
    grammar = translate(language, source)
    try:
        compile_matcher(tokenizer, grammar)
        return grammar
    except GrammarError:
        relaxed = relax(grammar, partial(_is_refused, tokenizer))
        if relaxed is None:
            raise
    compile_matcher(tokenizer, relaxed)
    return relaxed


def compile_matcher(tokenizer: LLTokenizer, grammar: str) -> LLMatcher:
    """Returns a matcher that has already computed the first mask. Raises GrammarError."""
    matcher = LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
    if not matcher.is_error():
        matcher.compute_bitmask()
    if matcher.is_error():
        raise GrammarError(problem(matcher))
    return matcher


def problem(matcher: LLMatcher) -> str:
    """Returns the error of a matcher, for the guide's author."""
    error = matcher.get_error().removesuffix("<non-verbose/>").strip()
    return "nothing matches it" if error == "NoExtensionBias" else error


def _is_refused(tokenizer: LLTokenizer, schema: str) -> bool:
    try:
        compile_matcher(tokenizer, translate(contract.JSON_SCHEMA.name, schema))
        return False
    except GrammarError:
        return True


class _Vocabulary:
    """The tokenizer that llguidance's TokenizerWrapper expects."""

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
