import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from anyserve_worker.pipelines.upstream import framing
from anyserve_worker.pipelines.upstream.framing import (
    BrokenStream,
    Frame,
    Framing,
    JsonArray,
    JsonLines,
    ServerSentEvents,
    WholeJson,
)

END = Frame(None, is_end=True)


def read(splitter: Framing, *pieces: bytes) -> list[Frame]:
    frames: list[Frame] = []
    for piece in pieces:
        frames += splitter.push(piece)
    return [*frames, *splitter.finish()]


def check_every_cut(create: Callable[[], Framing], data: bytes, expected: list[Frame]) -> None:
    assert read(create(), data) == expected
    for cut in range(1, len(data)):
        assert read(create(), data[:cut], data[cut:]) == expected, cut
    assert read(create(), *(data[i : i + 1] for i in range(len(data)))) == expected


SSE: dict[str, tuple[bytes, list[Any]]] = {
    "LF": (b'data: {"a": 1}\n\ndata: {"b": "\xc3\xa4\\n"}\n\ndata: [DONE]\n\n', [{"a": 1}, {"b": "ä\n"}, END]),
    "CRLF": (b'data: {"a": 1}\r\n\r\ndata: [DONE]\r\n\r\n', [{"a": 1}, END]),
    "CR": (b'data: {"a": 1}\r\rdata: {"b": 2}\r\r', [{"a": 1}, {"b": 2}]),
    "no blank after the colon": (b'data:{"a": 1}\n\ndata:[DONE]\n\n', [{"a": 1}, END]),
    "comments": (b': ping\n\n:\ndata: {"a": 1}\n: OPENROUTER PROCESSING\n\n', [{"a": 1}]),
    "byte order mark": (b'\xef\xbb\xbfdata: {"a": 1}\n\n', [{"a": 1}]),
    "two events in a line": (b'data: {"a": 1}data: {"b": 2}\n\n', [{"a": 1}, {"b": 2}]),
    "two values in an event": (b'data: {"a": 1}{"b": 2} [DONE]\n\n', [{"a": 1}, {"b": 2}, END]),
    "no blank lines": (b'data: {"a": 1}\ndata: {"b": 2}\ndata: [DONE]\n', [{"a": 1}, {"b": 2}, END]),
    "a value in several lines": (b'data: {"a":\ndata: 1}\n\n', [{"a": 1}]),
    "empty data": (b'data:\n\ndata: \n\ndata: {"a": 1}\n\n', [{"a": 1}]),
    "no line break at the end": (b'data: {"a": 1}', [{"a": 1}]),
    "other fields": (b'id: 7\nretry: 10\nfoo\ndata: {"a": 1}\n\n', [{"a": 1}]),
    "no field's name": (b'{"error": "x"}\n\ndata: {"a": 1}\n\n', [{"error": "x"}, {"a": 1}]),
    "no field's name, no blank line": (b'{"a": 1}\ndata: {"b": 2}\n\n', [{"a": 1}, {"b": 2}]),
    "no field's name, several lines": (b'{\n  "error": {\n    "code": 7\n  }\n}\n', [{"error": {"code": 7}}]),
    "field error": (b'error: {"code": 400}\n\n', [{"error": {"code": 400}}]),
    "field error with text": (b"error: no slot\n\n", [{"error": "no slot"}]),
}


@pytest.mark.parametrize("case", SSE)
def test_server_sent_events_at_every_cut(case: str) -> None:
    data, values = SSE[case]
    expected = [value if isinstance(value, Frame) else Frame(value) for value in values]
    check_every_cut(ServerSentEvents, data, expected)


def test_names_of_events() -> None:
    data = b'event: start\ndata: {"a": 1}\n\ndata: {"b": 2}\n\nevent: end\r\ndata: {}\r\n\r\n'
    check_every_cut(ServerSentEvents, data, [Frame({"a": 1}, "start"), Frame({"b": 2}), Frame({}, "end")])


@pytest.mark.parametrize("data", [b'data: {"a"', b'data: {"a": }\n\n', b"data: ping\n\n", b"data: " + b"[" * 100_000])
def test_broken_server_sent_events(data: bytes) -> None:
    with pytest.raises(BrokenStream):
        read(ServerSentEvents(), data)


def test_json_lines_at_every_cut() -> None:
    data = b'{"a": "\xe2\x82\xac"}\n\n{"b": [1, 2]}\r\n{"c": null}'
    check_every_cut(JsonLines, data, [Frame({"a": "€"}), Frame({"b": [1, 2]}), Frame({"c": None})])


def test_json_lines_that_end_early() -> None:
    with pytest.raises(BrokenStream):
        read(JsonLines(), b'{"a": 1}\n{"b":')


ELEMENTS: list[Any] = [{"text": 'a"b\\ {[', "n": [1, {"x": []}]}, {"text": "€]}"}, [], {}]


@pytest.mark.parametrize("indent", [None, 2])
def test_arrays_at_every_cut(indent: int | None) -> None:
    data = json.dumps(ELEMENTS, indent=indent, ensure_ascii=False).encode()
    check_every_cut(JsonArray, data, [Frame(element) for element in ELEMENTS])
    check_every_cut(JsonArray, b'{"error": {"code": 429}}', [Frame({"error": {"code": 429}})])
    check_every_cut(JsonArray, b"[]", [])


def test_an_element_of_an_array_needs_not_its_successor() -> None:
    splitter = JsonArray()
    assert list(splitter.push(b'[{"a": 1}')) == [Frame({"a": 1})]
    assert list(splitter.push(b',\r\n{"b": 2}')) == [Frame({"b": 2})]


@pytest.mark.parametrize("data", [b'[{"a": 1}', b'[{"a": 1}, {"b', b"[", b'{"a": "'])
def test_arrays_that_end_early(data: bytes) -> None:
    with pytest.raises(BrokenStream):
        read(JsonArray(), data)


def test_whole_values_at_every_cut() -> None:
    check_every_cut(WholeJson, b'{"a": "\xe2\x82\xac"}', [Frame({"a": "€"})])
    with pytest.raises(BrokenStream):
        read(WholeJson(), b"<html>")


@pytest.mark.parametrize("create", [ServerSentEvents, JsonLines, JsonArray, WholeJson])
def test_the_size_of_a_value_is_limited(create: Callable[[], Framing], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(framing, "MAX_FRAME", 100)
    with pytest.raises(BrokenStream):
        read(create(), *[b'{"a": "' + b"x" * 60, b"x" * 60 + b'"}'])


def test_a_huge_event_in_few_lines_takes_little_time() -> None:
    """Each line would be parsed again with all lines before it."""
    events = ServerSentEvents()
    began_at = time.process_time()
    for _ in range(60):
        assert not list(events.push(b"data: [" + b"1," * 100_000 + b"\n"))
    assert time.process_time() - began_at < 0.7
