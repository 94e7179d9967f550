"""Bytes to text: the same however the bytes are split, complete, and without stop strings."""

from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.text.output import TextOutput


def pieces_of(output: TextOutput, pieces: Iterable[bytes]) -> list[str]:
    return [output.push(piece) for piece in pieces] + [output.flush()]


def text_of(pieces: Iterable[bytes], stop: Sequence[str] = ()) -> tuple[str, bool]:
    output = TextOutput(stop)
    return "".join(pieces_of(output, pieces)), output.stopped


def reference(data: bytes, stop: Sequence[str]) -> tuple[str, bool]:
    """Reads character by character. The first complete stop string ends the text at its start."""
    text = data.decode(errors="replace")
    for end in range(1, len(text) + 1):
        ends = [stop_string for stop_string in stop if text[:end].endswith(stop_string)]
        if ends:
            return text[: end - max(map(len, ends))], True
    return text, False


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Yields the whole, every split into two and three parts, single bytes, and empty pieces between."""
    yield [data]
    for i in range(len(data) + 1):
        yield [data[:i], data[i:]]
        for j in range(i, len(data) + 1):
            yield [data[:i], data[i:j], data[j:]]
    yield [data[i : i + 1] for i in range(len(data))]
    yield [piece for i in range(len(data)) for piece in (b"", data[i : i + 1], b"")]


CASES: list[tuple[bytes, tuple[str, ...], str, bool]] = [
    (b"", (), "", False),
    (b"", ("a",), "", False),
    (b"plain", (), "plain", False),
    ("aé€😀z".encode(), (), "aé€😀z", False),
    ("👩‍👩‍👧".encode(), ("x",), "👩‍👩‍👧", False),
    # Invalid bytes: alone, cut off by the end, in the middle, overlong, a surrogate, past U+10FFFF.
    (b"\xff", (), "�", False),
    (b"a\xe2\x82", (), "a�", False),
    (b"a\xf0\x9f\x98", (), "a�", False),
    (b"a\xe2\x82b", (), "a�b", False),
    (b"\xc0\x80", (), "��", False),
    (b"\xed\xa0\x80", (), "���", False),
    (b"\xf4\x90\x80\x80", (), "����", False),
    # Stop strings: at the beginning, in the middle, at the end, twice, alone, with text behind.
    (b"END rest", ("END",), "", True),
    (b"one END rest", ("END",), "one ", True),
    (b"one END", ("END",), "one ", True),
    (b"one END END", ("END",), "one ", True),
    # Incomplete stop strings: nothing is lost.
    (b"one EN", ("END",), "one EN", False),
    (b"one ENx", ("END",), "one ENx", False),
    (b"EEEND", ("END",), "EE", True),
    # Strings that overlap themselves.
    (b"aaab", ("aab",), "a", True),
    (b"abababc", ("ababc",), "ab", True),
    (b"aaaa", ("aa",), "", True),
    (b"\n\n\nx", ("\n\n",), "", True),
    # Several: the one that is complete first wins, the longest of those that end together.
    (b"xabcd", ("abcd", "bc"), "xa", True),
    (b"xabc", ("bc", "abc"), "x", True),
    (b"xabc", ("abc", "bc", "c"), "x", True),
    (b"xabd", ("abc", "bd"), "xa", True),
    (b"xab", ("abc", "bcd"), "xab", False),
    (b"xabcx", ("abcd", "bcx"), "xa", True),
    # In other scripts, and interrupted by invalid bytes.
    ("日本語".encode(), ("本",), "日", True),
    ("a😀b".encode(), ("😀",), "a", True),
    (b"E\xffND", ("END",), "E�ND", False),
    (b"a\xff", ("�",), "a", True),
    (b"a\xf0\x9f", ("�",), "a", True),
]


@pytest.mark.parametrize(("data", "stop", "text", "stopped"), CASES)
def test_text_at_every_cut(data: bytes, stop: tuple[str, ...], text: str, stopped: bool) -> None:
    for pieces in cuts(data):
        assert text_of(pieces, stop) == (text, stopped), pieces


@pytest.mark.parametrize(("data", "stop", "text", "stopped"), CASES)
def test_the_reference_agrees(data: bytes, stop: tuple[str, ...], text: str, stopped: bool) -> None:
    assert reference(data, stop) == (text, stopped)


def alphabet(characters: str) -> st.SearchStrategy[str]:
    return st.text(alphabet=characters, max_size=12)


@given(
    parts=st.lists(st.one_of(alphabet("ab").map(str.encode), alphabet("é😀").map(str.encode), st.binary(max_size=4))),
    stop=st.lists(st.text(alphabet="abé😀�", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_text_does_not_depend_on_the_cut(parts: list[bytes], stop: list[str], data: st.DataObject) -> None:
    whole = b"".join(parts)
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[i:j] for i, j in zip([0, *places], [*places, len(whole)], strict=True)]
    assert text_of(pieces, stop) == reference(whole, stop)


@given(text=alphabet("abc"), stop=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_held_back_is_only_what_may_still_become_a_stop_string(text: str, stop: list[str]) -> None:
    output, shown = TextOutput(stop), ""
    for i, character in enumerate(text):
        shown += output.push(character.encode())
        if output.stopped:
            return
        held = text[: i + 1].removeprefix(shown)
        assert text[: i + 1] == shown + held
        longest = max(
            (n for s in stop for n in range(len(s)) if (shown + held).endswith(s[:n])),
            default=0,
        )
        assert len(held) == longest


@pytest.mark.parametrize("text", ["aé", "a€", "a😀"])
def test_characters_come_out_whole_and_at_once(text: str) -> None:
    data = text.encode()
    shown = [TextOutput().push(data[: i + 1]) for i in range(len(data))]
    assert shown == ["a"] * (len(data) - 1) + [text]


def test_text_without_stop_strings_is_never_held() -> None:
    output = TextOutput()
    assert [output.push(b"a"), output.push(b"b"), output.flush()] == ["a", "b", ""]


def test_nothing_comes_after_a_stop_string() -> None:
    output = TextOutput(["stop"])
    assert output.push(b"a stop b") == "a "
    assert output.stopped
    assert [output.push(b" c"), output.push(b"\xe2"), output.flush()] == ["", "", ""]


def test_flush_gives_what_was_held_once() -> None:
    output = TextOutput(["stop"])
    assert [output.push(b"st"), output.flush(), output.flush()] == ["", "st", ""]
    assert not output.stopped


def test_flush_may_complete_a_stop_string() -> None:
    output = TextOutput(["x�"])
    assert [output.push(b"ax\xe2"), output.flush()] == ["a", ""]
    assert output.stopped
