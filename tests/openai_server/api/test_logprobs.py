"""Log probabilities in the shapes of both APIs, checked against the `openai` package."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import to_builtins
from msgspec.structs import asdict
from openai.types.chat.chat_completion import ChoiceLogprobs
from openai.types.completion_choice import Logprobs as CompletionShape

from openai_server.api.chat.logprobs import chat_logprobs
from openai_server.api.completions.logprobs import LogprobsWriter
from openai_server.api.logprobs import MIN_LOGPROB
from openai_server.core.logprobs import TokenLogprob
from tests.shapes import exact

ROCKET = " 🚀".encode()


def token(text: bytes, logprob: float | None = -0.5, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(text, logprob, top)


def test_chat_has_the_tokens_and_their_bytes() -> None:
    logprobs = exact(
        ChoiceLogprobs, to_builtins(chat_logprobs([token(b"Hi", -0.25, (b"Hi", -0.25), (ROCKET[:3], -2.0))]))
    )
    assert logprobs.content is not None
    (first,) = logprobs.content
    assert (first.token, first.logprob, first.bytes) == ("Hi", -0.25, [72, 105])
    assert [top.token for top in first.top_logprobs] == ["Hi", " \ufffd"]
    assert first.top_logprobs[1].bytes == list(ROCKET[:3])


def test_completions_have_tokens_offsets_and_alternatives() -> None:
    part = LogprobsWriter().part([token(b"Hi"), token(ROCKET[:3], -1.0, (b"x", -0.5)), token(ROCKET[3:])])
    logprobs = exact(CompletionShape, to_builtins(part))
    assert logprobs.tokens == ["Hi", "bytes:\\x20\\xf0\\x9f", "bytes:\\x9a\\x80"]
    assert logprobs.text_offset == [0, 2, 3]
    assert logprobs.token_logprobs == [-0.5, -1.0, -0.5]
    assert logprobs.top_logprobs == [
        {"Hi": -0.5},
        {"x": -0.5, "bytes:\\x20\\xf0\\x9f": -1.0},
        {"bytes:\\x9a\\x80": -0.5},
    ]


def test_the_first_token_of_a_prompt_has_no_probability() -> None:
    """OpenAI sends null, though the package's types allow only numbers."""
    part = LogprobsWriter().part([token(b"Hi", None)])
    assert (part.tokens, part.token_logprobs, part.top_logprobs) == (["Hi"], [None], [None])


def test_infinite_log_probabilities_are_replaced() -> None:
    impossible = token(b"x", -math.inf, (b"y", -math.inf))
    assert chat_logprobs([impossible]).content[0].logprob == MIN_LOGPROB
    assert LogprobsWriter().part([impossible]).token_logprobs == [MIN_LOGPROB]


@given(st.lists(st.binary(min_size=1, max_size=4)), st.integers(0, 10))
def test_offsets_continue_over_parts(texts: list[bytes], at: int) -> None:
    tokens = [token(text) for text in texts]
    whole, parts = LogprobsWriter(), LogprobsWriter()
    first, second = parts.part(tokens[:at]), parts.part(tokens[at:])
    for name, elements in asdict(whole.part(tokens)).items():
        assert getattr(first, name) + getattr(second, name) == elements


@pytest.mark.parametrize("text", ["plain", "ein Über-Wort", "🚀 to 月"])
def test_an_offset_is_the_position_of_the_token_in_the_text(text: str) -> None:
    words = [" " + word if i else word for i, word in enumerate(text.split(" "))]
    part = LogprobsWriter().part([token(word.encode()) for word in words])
    for offset, word in zip(part.text_offset, words, strict=True):
        assert text[offset:].startswith(word)
