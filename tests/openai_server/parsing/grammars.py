"""Compiles grammars with llguidance, as the worker does, for a vocabulary of all bytes and some control tokens."""

import random
from collections.abc import Sequence
from functools import lru_cache

from llguidance import LLMatcher, LLTokenizer, TokenizerWrapper

CONTROL_TOKENS = (
    *("<|tool_call|>", "<|/tool_call|>", "<|python_tag|>", "<|python_start|>", "<|python_end|>", "<|function_call|>"),
    *("[TOOL_CALLS]", "[CALL_ID]", "[ARGS]", "[THINK]", "[/THINK]"),
    *("<|START_ACTION|>", "<|END_ACTION|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    *("<|START_THINKING|>", "<|END_THINKING|>"),
    *(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁end｜>",
        "<｜tool▁call▁begin｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁sep｜>",
    ),
    *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_end|>"),
    "<|tool_call_argument_begin|>",
    *("<|tool_call_start|>", "<|tool_call_end|>"),
    *("<|start|>", "<|channel|>", "<|constrain|>", "<|message|>", "<|end|>"),
)


class _Vocabulary:
    """The tokenizer interface of llguidance."""

    def __init__(self) -> None:
        control = self._control = list(dict.fromkeys(CONTROL_TOKENS))
        names = [text if text.startswith("<") else f"<|{text}|>" for text in control]
        self.ids = dict(zip(control, range(256, 256 + len(control)), strict=True))
        self.tokens = [bytes([byte]) for byte in range(256)] + [name.encode() for name in names] + [b"<|eos|>"]
        self.special_token_ids = list(range(256, len(self.tokens)))
        self.eos_token_id = len(self.tokens) - 1
        self.bos_token_id = None

    def __call__(self, text: bytes) -> list[int]:
        return list(text)

    def text(self, id: int) -> bytes:
        return self.tokens[id] if id < 256 else self._control[id - 256].encode()


_vocabulary = _Vocabulary()


@lru_cache(maxsize=1)
def tokenizer() -> LLTokenizer:
    return LLTokenizer(TokenizerWrapper(_vocabulary))


def tokens(text: str, *, control: bool = True) -> list[int]:
    """Returns the tokens of a text, with markers as control tokens or (if not `control`) as bytes."""
    ids: list[int] = []
    position = 0
    while position < len(text):
        marker = next((x for x in _vocabulary.ids if control and text.startswith(x, position)), None)
        ids += [_vocabulary.ids[marker]] if marker else text[position].encode()
        position += len(marker or text[position])
    return ids


@lru_cache(maxsize=64)
def _compiled(grammar: str) -> LLMatcher:
    compiled = LLMatcher(tokenizer(), grammar, log_level=0)
    assert not compiled.is_error(), f"{compiled.get_error()}\n{grammar}"
    return compiled


def matcher(grammar: str) -> LLMatcher:
    return _compiled(grammar).deep_copy()


def accepted(grammar: str, text: str | Sequence[int]) -> bool:
    """Whether the grammar accepts the whole text as complete."""
    n_accepted, consumed = _consumed(grammar, text)
    return n_accepted is None and consumed.is_accepting()


def refused_at(grammar: str, text: str | Sequence[int]) -> int | None:
    """Returns the index of the first token that the grammar rejects; None if it accepts all."""
    return _consumed(grammar, text)[0]


def _consumed(grammar: str, text: str | Sequence[int]) -> tuple[int | None, LLMatcher]:
    ids = tokens(text) if isinstance(text, str) else list(text)
    text_matcher = matcher(grammar)
    n_accepted = text_matcher.try_consume_tokens(ids)
    assert not text_matcher.is_error(), text_matcher.get_error()  # for example, a lexer that became too complex
    return (n_accepted if n_accepted < len(ids) else None), text_matcher


_ENDS = ("</parameter>\n", "\n</parameter>\n", "</｜DSML｜parameter>\n", "</arg_value>", "</arg_value>\n")


def random_text(grammar: str, rng: random.Random, begin: str = "") -> str:
    """Returns a random text that the grammar accepts and that starts with `begin`; prefers closing tokens."""
    text_matcher = matcher(grammar)
    ids = tokens(begin)
    assert text_matcher.consume_tokens(ids)
    eos = _vocabulary.eos_token_id
    while True:
        mask = text_matcher.compute_bitmask()
        allowed = [i for i in range(len(_vocabulary.tokens)) if mask[i // 8] >> (i % 8) & 1]
        if allowed == [eos] or (eos in allowed and rng.random() < 0.2):
            return b"".join(map(_vocabulary.text, ids)).decode(errors="replace")
        ends = [tokens(end) for end in _ENDS if text_matcher.validate_tokens(tokens(end)) == len(tokens(end))]
        ends += [[i] for i in allowed if i != eos and (i >= 256 or chr(i) in '"}])')]
        others = [[i] for i in allowed if 32 <= i < 127 or i == 10] or [[i] for i in allowed if i != eos]
        choice = rng.choice(ends if ends and rng.random() < 0.5 else others)
        assert text_matcher.consume_tokens(choice)
        ids += choice
        assert len(ids) < 2000
