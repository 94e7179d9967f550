"""Text of a choice: every way to cut it into responses gives the same result."""

from collections.abc import Iterator, Sequence

import pytest

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


def test_a_cumulative_text_must_not_change() -> None:
    text = ChoiceText(b"", (), is_cumulative=True)
    text.add(b"one")
    with pytest.raises(BackendError, match="changed text"):
        text.add(b"two")
