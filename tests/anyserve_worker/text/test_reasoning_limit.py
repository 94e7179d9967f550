"""The limit of a marked span. Unless stated otherwise, each token is a single byte."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.text.reasoning_limit import ReasoningLimit

END = "</t>"
BEGIN = "<t>"
MARK = list(END.encode())


def limit_of(max_tokens: int, begin: str = "", *, ends: Sequence[str] = (END, "[end]")) -> ReasoningLimit:
    return ReasoningLimit(max_tokens, list(ends[0].encode()), ends, begin)


def written(limit: ReasoningLimit, sampled: Iterable[int], accepts: Iterable[bool] | None = None) -> bytes:
    """Returns the text of a choice whose model writes `sampled`. `accepts`: answers of its guide, in order."""
    answers = iter(accepts) if accepts is not None else None
    text, tokens = b"", list(sampled)
    while tokens or limit._forced:
        token = limit.forced(lambda _: True if answers is None else next(answers))
        if token is None:
            if not tokens:
                break
            token = tokens.pop(0)
        limit.push(token, bytes([token]))
        text += bytes([token])
    return text


@pytest.mark.parametrize("max_tokens", range(5))
def test_the_end_mark_follows_the_last_allowed_token(max_tokens: int) -> None:
    text = written(limit_of(max_tokens), b"think more")
    assert text == b"think"[:max_tokens] + b"</t>" + b"think more"[max_tokens:]


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_tokens_before_and_in_the_begin_mark_do_not_count(max_tokens: int) -> None:
    assert written(limit_of(max_tokens, BEGIN), b" \n<t>abcdef") == (
        b" \n<t>" + b"abcdef"[:max_tokens] + b"</t>" + b"abcdef"[max_tokens:]
    )


@pytest.mark.parametrize("text", [b"no thoughts at all", b"<th", b"  ", b"<x><t>late"])
def test_a_text_without_the_begin_mark_has_no_limit(text: bytes) -> None:
    assert written(limit_of(0, BEGIN), text) == text


@pytest.mark.parametrize("text", [b"ab</t>then more", b"ab[end]then more"])
@pytest.mark.parametrize("max_tokens", [20, 7])
def test_a_span_that_the_model_ends_is_left_alone(text: bytes, max_tokens: int) -> None:
    assert written(limit_of(max_tokens), text) == text


def test_a_span_may_end_with_the_last_allowed_token() -> None:
    assert written(limit_of(6), b"ab</t>then more") == b"ab</t>then more"


def test_only_the_first_span_has_a_limit() -> None:
    assert written(limit_of(5, BEGIN), b"<t>a</t>b<t>cdefghijk") == b"<t>a</t>b<t>cdefghijk"


@pytest.mark.parametrize("n_written", range(1, len(MARK)))
def test_an_end_mark_that_the_model_has_begun_is_completed(n_written: int) -> None:
    begun = b"ab" + bytes(MARK[:n_written])
    assert written(limit_of(len(begun)), begun + b"xyz") == b"ab</t>xyz"


@pytest.mark.parametrize("character", ["é", "漢", "😀"])
def test_the_end_mark_waits_for_the_end_of_a_character(character: str) -> None:
    data = character.encode()
    for max_tokens in range(1, len(data) + 1):
        assert written(limit_of(max_tokens), data + b"xyz").decode() == f"{character}</t>xyz"


def test_bytes_that_are_no_character_do_not_delay_the_end_mark_for_long() -> None:
    assert written(limit_of(1), b"\xe6abc") == b"\xe6a</t>bc"


def test_a_mark_that_the_guide_refuses_waits_until_it_is_accepted() -> None:
    assert written(limit_of(1), b"abcdef", [False, False, True]) == b"abc</t>def"
    assert written(limit_of(1), b"abcdef", [False] * 6) == b"abcdef"


def test_a_mark_of_one_token_is_written_whole() -> None:
    limit = ReasoningLimit(2, [300], [END])
    for token in b"<<":
        assert limit.forced(lambda _: True) is None
        limit.push(token, bytes([token]))
    assert limit.forced(lambda tokens: list(tokens) == [300]) == 300
    limit.push(300, END.encode())
    assert limit.forced(lambda _: True) is None


@given(
    text=st.binary(max_size=30),
    max_tokens=st.integers(0, 12),
    begin=st.sampled_from(["", BEGIN]),
)
def test_the_end_mark_is_the_only_change_and_comes_at_its_place(text: bytes, max_tokens: int, begin: str) -> None:
    sampled = begin.encode() + text
    whole = written(limit_of(max_tokens, begin), sampled)
    places = [
        n - len(begin)
        for n in range(len(sampled) + 1)
        for rest in (MARK[k:] for k in range(len(MARK)))
        if whole == sampled[:n] + bytes(rest) + sampled[n:]
    ]
    if whole == sampled:
        assert len(text) < max_tokens + 4 or any(end.encode() in text for end in (END, "[end]"))
    else:
        assert any(max_tokens <= n <= max_tokens + 3 for n in places)
