"""Text of a choice: every way to cut it into responses gives the same result."""

import time
from collections.abc import Iterator, Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.dialects.mapping.text import ChoiceText
from openai_server.core.errors import BackendError


def splits(text: bytes) -> Iterator[list[bytes]]:
    """Each text in two pieces at every place, and in single bytes."""
    for at in range(len(text) + 1):
        yield [text[:at], text[at:]]
    yield [text[i : i + 1] for i in range(len(text))]


def result(
    pieces: Sequence[bytes], prompt: bytes = b"", stops: Sequence[bytes] = (), *, cumulative: bool = False
) -> bytes:
    text = ChoiceText(prompt, stops, is_cumulative=cumulative)
    if cumulative:
        pieces = [b"".join(pieces[: i + 1]) for i in range(len(pieces))]
    return b"".join(map(text.add, pieces)) + text.end()


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize(
    ("text", "prompt", "stops", "expected"),
    [
        ("one two", "", [], "one two"),
        ("one STOP two", "", ["STOP"], "one "),
        ("one STO", "", ["STOP"], "one STO"),
        ("aab", "", ["ab"], "a"),
        ("a\n\nb", "", ["\n\n", "\n"], "a"),
        ("Hi there", "Hi", [], " there"),
        ("Hi there", "Hi", ["re"], " the"),
        ("other", "Hi", [], "other"),
        ("Hi", "Hi", [], ""),
        ("H", "Hi", ["x"], "H"),
        ("STOP", "", ["STOP"], ""),
        ("grün 日本", "", ["本"], "grün 日"),
    ],
)
def test_text_is_the_same_for_every_split(
    text: str, prompt: str, stops: list[str], expected: str, cumulative: bool
) -> None:
    for pieces in splits(text.encode()):
        encoded = [stop.encode() for stop in stops]
        assert result(pieces, prompt.encode(), encoded, cumulative=cumulative) == expected.encode(), pieces


def test_text_that_may_become_a_stop_string_is_held_back() -> None:
    text = ChoiceText(b"", [b"END"], is_cumulative=False)
    assert text.add(b"the E") == b"the "
    assert text.add(b"N") == b""
    assert text.add(b"J") == b"ENJ"


def test_nothing_follows_a_stop_string() -> None:
    text = ChoiceText(b"", [b"END"], is_cumulative=False)
    assert text.add(b"a END b") == b"a "
    assert (text.is_stopped, text.add(b"more"), text.end()) == (True, b"", b"")


def test_an_incomplete_character_of_a_cumulative_text_waits_for_the_next_response() -> None:
    text = ChoiceText(b"", (), is_cumulative=True)
    assert text.add("a\ufffd".encode()) == b"a"
    assert text.add("a日".encode()) == "日".encode()
    assert text.add("a日\ufffd".encode()) == b""
    assert text.end() == "\ufffd".encode()


def test_a_text_that_ends_with_replacement_characters_may_be_sent_again() -> None:
    text = ChoiceText(b"", (), is_cumulative=True)
    whole = "a\ufffd".encode()
    assert text.add(whole) + text.end() + text.add(whole) == whole


def test_only_the_characters_of_one_incomplete_character_are_held_back() -> None:
    text = ChoiceText(b"", (), is_cumulative=True)
    character = "\ufffd".encode()
    assert text.add(b"a" + 9 * character) == b"a" + 5 * character
    assert text.end() == 4 * character


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=9), max_size=3), st.randoms())
def test_held_text_is_the_longest_beginning_of_a_stop_string(text: str, stops: list[str], random: Random) -> None:
    choice = ChoiceText(b"", [stop.encode() for stop in stops], is_cumulative=False)
    passed, received = b"", ""
    while len(received) < len(text):
        piece = text[len(received) :][: random.randint(1, 12)]
        received += piece
        passed += choice.add(piece.encode())
        if any(stop in received for stop in stops):
            assert passed.decode() == received[: min(at for stop in stops if (at := received.find(stop)) >= 0)]
            return
        lengths = [n for stop in stops for n in range(len(stop)) if received.endswith(stop[:n])]
        assert passed.decode() == received[: len(received) - max(lengths, default=0)]


@pytest.mark.parametrize(
    ("prompt", "stops", "pieces", "cumulative"),
    [
        (b"", [b"a" * 400_000 + b"b"], [b"a" * 400_000, b"c"], False),
        (b"x" * 1_000_000, [], [b"x" * 4] * 250_000, False),
        (b"", [], ["\ufffd".encode() * k for k in range(5000)], True),
    ],
)
def test_time_is_in_proportion_to_the_text(
    prompt: bytes, stops: list[bytes], pieces: list[bytes], cumulative: bool
) -> None:
    text = ChoiceText(prompt, stops, is_cumulative=cumulative)
    started = time.process_time()
    for piece in pieces:
        text.add(piece)
    assert time.process_time() - started < 1.5, "it takes seconds if each piece is compared with all before it"


def test_a_cumulative_text_must_not_change() -> None:
    text = ChoiceText(b"", (), is_cumulative=True)
    text.add(b"one")
    with pytest.raises(BackendError, match="changed text"):
        text.add(b"two")
