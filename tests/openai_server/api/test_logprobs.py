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
from openai_server.api.logprobs import LEAST
from openai_server.core.logprobs import TokenLogprob
from tests.shapes import exact

ROCKET = " 🚀".encode()


def token(text: bytes, logprob: float | None = -0.5, *top: tuple[bytes, float]) -> TokenLogprob:
    return TokenLogprob(text, logprob, top)


def test_chat() -> None:
    told = exact(ChoiceLogprobs, to_builtins(chat_logprobs([token(b"Hi", -0.25, (b"Hi", -0.25), (ROCKET[:3], -2.0))])))
    assert told.content is not None
    (first,) = told.content
    assert (first.token, first.logprob, first.bytes) == ("Hi", -0.25, [72, 105])
    assert [top.token for top in first.top_logprobs] == ["Hi", " \ufffd"]
    assert first.top_logprobs[1].bytes == list(ROCKET[:3])


def test_completions() -> None:
    part = LogprobsWriter().part([token(b"Hi"), token(ROCKET[:3], -1.0, (b"x", -0.5)), token(ROCKET[3:])])
    told = exact(CompletionShape, to_builtins(part))
    assert told.tokens == ["Hi", "bytes:\\x20\\xf0\\x9f", "bytes:\\x9a\\x80"]
    assert told.text_offset == [0, 2, 3]
    assert told.token_logprobs == [-0.5, -1.0, -0.5]
    assert told.top_logprobs == [
        {"Hi": -0.5},
        {"x": -0.5, "bytes:\\x20\\xf0\\x9f": -1.0},
        {"bytes:\\x9a\\x80": -0.5},
    ]


def test_what_nothing_precedes_has_no_probability() -> None:
    """null, as OpenAI itself says it, though the package's types know only numbers."""
    part = LogprobsWriter().part([token(b"Hi", None)])
    assert (part.tokens, part.token_logprobs, part.top_logprobs) == (["Hi"], [None], [None])


def test_nothing_is_infinite() -> None:
    impossible = token(b"x", -math.inf, (b"y", -math.inf))
    assert chat_logprobs([impossible]).content[0].logprob == LEAST
    assert LogprobsWriter().part([impossible]).token_logprobs == [LEAST]


@given(st.lists(st.binary(min_size=1, max_size=4)), st.integers(0, 10))
def test_offsets_go_on_from_part_to_part(texts: list[bytes], at: int) -> None:
    tokens = [token(text) for text in texts]
    whole, parts = LogprobsWriter(), LogprobsWriter()
    told = [parts.part(tokens[:at]), parts.part(tokens[at:])]
    for name, elements in asdict(whole.part(tokens)).items():
        assert getattr(told[0], name) + getattr(told[1], name) == elements


@pytest.mark.parametrize("text", ["plain", "ein Über-Wort", "🚀 to 月"])
def test_an_offset_is_where_the_token_begins_in_the_text(text: str) -> None:
    words = [" " + word if i else word for i, word in enumerate(text.split(" "))]
    part = LogprobsWriter().part([token(word.encode()) for word in words])
    for offset, word in zip(part.text_offset, words, strict=True):
        assert text[offset:].startswith(word)
