"""Bytes to text: the result is the same for any cut, complete, and without stop strings."""

from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.text.output import TextOutput
from tests.anyserve_worker.text.cuts import cuts


def pieces_of(output: TextOutput, pieces: Iterable[bytes]) -> list[str]:
    return [output.push(piece) for piece in pieces] + [output.flush()]


def text_of(pieces: Iterable[bytes], stop: Sequence[str] = ()) -> tuple[str, bool]:
    output = TextOutput(stop)
    return "".join(pieces_of(output, pieces)), output.stopped


def reference(data: bytes, stop: Sequence[str]) -> tuple[str, bool]:
    """Returns the expected (text, stopped): the first complete stop string ends the text where it begins."""
    text = data.decode(errors="replace")
    for end in range(1, len(text) + 1):
        ends = [stop_string for stop_string in stop if text[:end].endswith(stop_string)]
        if ends:
            return text[: end - max(map(len, ends))], True
    return text, False


CASES: list[tuple[bytes, tuple[str, ...], str, bool]] = [
    (b"", (), "", False),
    (b"", ("a",), "", False),
    (b"plain", (), "plain", False),
    ("aé€😀z".encode(), (), "aé€😀z", False),
    ("👩‍👩‍👧".encode(), ("x",), "👩‍👩‍👧", False),
    # invalid bytes: alone, cut at the end, in the middle, overlong, a surrogate, past U+10FFFF
    (b"\xff", (), "�", False),
    (b"a\xe2\x82", (), "a�", False),
    (b"a\xf0\x9f\x98", (), "a�", False),
    (b"a\xe2\x82b", (), "a�b", False),
    (b"\xc0\x80", (), "��", False),
    (b"\xed\xa0\x80", (), "���", False),
    (b"\xf4\x90\x80\x80", (), "����", False),
    # stop strings: at the start, in the middle, at the end, twice
    (b"END rest", ("END",), "", True),
    (b"one END rest", ("END",), "one ", True),
    (b"one END", ("END",), "one ", True),
    (b"one END END", ("END",), "one ", True),
    # unfinished stop strings are text
    (b"one EN", ("END",), "one EN", False),
    (b"one ENx", ("END",), "one ENx", False),
    (b"EEEND", ("END",), "EE", True),
    # stop strings that overlap themselves
    (b"aaab", ("aab",), "a", True),
    (b"abababc", ("ababc",), "ab", True),
    (b"aaaa", ("aa",), "", True),
    (b"\n\n\nx", ("\n\n",), "", True),
    # several stop strings: the first complete one wins, the longest of those that end together
    (b"xabcd", ("abcd", "bc"), "xa", True),
    (b"xabc", ("bc", "abc"), "x", True),
    (b"xabc", ("abc", "bc", "c"), "x", True),
    (b"xabd", ("abc", "bd"), "xa", True),
    (b"xab", ("abc", "bcd"), "xab", False),
    (b"xabcx", ("abcd", "bcx"), "xa", True),
    # other scripts and invalid bytes
    ("日本語".encode(), ("本",), "日", True),
    ("a😀b".encode(), ("😀",), "a", True),
    (b"E\xffND", ("END",), "E�ND", False),
    (b"a\xff", ("�",), "a", True),
    (b"a\xf0\x9f", ("�",), "a", True),
]


@pytest.mark.parametrize(("data", "stop", "text", "stopped"), CASES)
def test_the_text_is_the_same_at_every_cut(data: bytes, stop: tuple[str, ...], text: str, stopped: bool) -> None:
    for pieces in cuts(data):
        assert text_of(pieces, stop) == (text, stopped), pieces


@pytest.mark.parametrize(("data", "stop", "text", "stopped"), CASES)
def test_the_reference_gives_the_same_text(data: bytes, stop: tuple[str, ...], text: str, stopped: bool) -> None:
    assert reference(data, stop) == (text, stopped)


@pytest.mark.parametrize(("data", "stop", "text", "stopped"), CASES)
def test_the_text_may_include_its_stop_string(data: bytes, stop: tuple[str, ...], text: str, stopped: bool) -> None:
    for pieces in cuts(data):
        output = TextOutput(stop, include_stop=True)
        whole = "".join(pieces_of(output, pieces))
        assert output.stopped == stopped
        end = max(filter(whole.endswith, stop), key=len) if stopped else ""
        assert whole == text + end


def alphabet(characters: str) -> st.SearchStrategy[str]:
    return st.text(alphabet=characters, max_size=12)


@given(
    parts=st.lists(st.one_of(alphabet("ab").map(str.encode), alphabet("é😀").map(str.encode), st.binary(max_size=4))),
    stop=st.lists(st.text(alphabet="abé😀�", min_size=1, max_size=4), max_size=3),
    data=st.data(),
)
def test_random_text_is_the_same_for_any_cut(parts: list[bytes], stop: list[str], data: st.DataObject) -> None:
    whole = b"".join(parts)
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=8)))
    pieces = [whole[i:j] for i, j in zip([0, *places], [*places, len(whole)], strict=True)]
    assert text_of(pieces, stop) == reference(whole, stop)


@given(text=alphabet("abc"), stop=st.lists(st.text(alphabet="abc", min_size=1, max_size=4), min_size=1, max_size=3))
def test_only_the_beginning_of_a_stop_string_is_held_back(text: str, stop: list[str]) -> None:
    output, delivered = TextOutput(stop), ""
    for i, character in enumerate(text):
        delivered += output.push(character.encode())
        if output.stopped:
            return
        pending = text[: i + 1].removeprefix(delivered)
        assert text[: i + 1] == delivered + pending
        longest = max(
            (n for s in stop for n in range(len(s)) if (delivered + pending).endswith(s[:n])),
            default=0,
        )
        assert len(pending) == longest


@pytest.mark.parametrize("text", ["aé", "a€", "a😀"])
def test_a_character_is_delivered_when_its_last_byte_arrives(text: str) -> None:
    data = text.encode()
    delivered = [TextOutput().push(data[: i + 1]) for i in range(len(data))]
    assert delivered == ["a"] * (len(data) - 1) + [text]


def test_text_is_not_held_back_without_stop_strings() -> None:
    output = TextOutput()
    assert [output.push(b"a"), output.push(b"b"), output.flush()] == ["a", "b", ""]


def test_text_after_a_stop_string_is_dropped() -> None:
    output = TextOutput(["stop"])
    assert output.push(b"a stop b") == "a "
    assert output.stopped
    assert [output.push(b" c"), output.push(b"\xe2"), output.flush()] == ["", "", ""]


def test_flush_returns_held_text_once() -> None:
    output = TextOutput(["stop"])
    assert [output.push(b"st"), output.flush(), output.flush()] == ["", "st", ""]
    assert not output.stopped


def test_flush_may_complete_a_stop_string() -> None:
    output = TextOutput(["x�"])
    assert [output.push(b"ax\xe2"), output.flush()] == ["a", ""]
    assert output.stopped
