"""The check of an input file."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.api.batches.checking import (
    GROUP,
    MAX_ERRORS,
    MAX_ID_LENGTH,
    Checked,
    Checker,
    LineError,
    body_of,
)
from openai_server.store.batch_records import BatchLine

ENDPOINT = "/v1/chat/completions"
MAX_LINE_BYTES = 4096


def line(custom_id: Any = "a", **fields: Any) -> bytes:
    request = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": {"model": "tiny"}, **fields}
    return json.dumps({name: value for name, value in request.items() if value != "absent"}).encode()


def parts_of(*pieces: bytes, **limits: Any) -> list[Checked]:
    checker = Checker(ENDPOINT, **{"max_line_bytes": MAX_LINE_BYTES, **limits})
    parts = [part for piece in pieces for part in checker.feed(piece)]
    return [*parts, checker.end()]


def checked(*pieces: bytes, **limits: Any) -> tuple[list[BatchLine], list[LineError], Checked]:
    parts = parts_of(*pieces, **limits)
    assert [part.is_end for part in parts] == [False] * (len(parts) - 1) + [True]
    lines = [line for part in parts for line in part.lines]
    return lines, [error for part in parts for error in part.errors], parts[-1]


def error(content: bytes, **limits: Any) -> LineError:
    _, [found], _ = checked(content, **limits)
    return found


def contents(file: bytes, lines: Sequence[BatchLine]) -> list[bytes]:
    return [file[line.start : line.start + line.n_bytes] for line in lines]


def test_lines_have_their_place_in_the_file() -> None:
    file = b"\n".join([line("a"), line("b", body={"model": "large", "x": "\u2028"}), line("ü")])
    lines, errors, end = checked(file)
    assert not errors
    assert [(found.number, found.custom_id) for found in lines] == [(0, "a"), (1, "b"), (2, "ü")]
    assert contents(file, lines) == file.split(b"\n")
    assert (end.n_lines, end.model) == (3, "tiny")
    assert json.loads(body_of(contents(file, lines)[1])) == {"model": "large", "x": "\u2028"}


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n \n", b"\r\n\r\n"])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("line_break", [b"\n", b"\r\n"])
def test_forms_of_a_file(bom: bytes, line_break: bytes, end: bytes) -> None:
    file = bom + line("a") + line_break + line("b") + end
    lines, errors, _ = checked(file)
    assert not errors
    assert contents(file, lines) == [line("a"), line("b")]


@given(st.lists(st.integers(1, 200), max_size=9))
def test_pieces_can_end_anywhere(cuts: list[int]) -> None:
    file = b"\xef\xbb\xbf" + b"\r\n".join([line("a"), b"", b"nothing", line("b"), b"x" * 5000, line("a")]) + b"\n\n"
    pieces, rest = [], file
    for n in cuts:
        pieces.append(rest[:n])
        rest = rest[n:]
    lines, errors, end = checked(*pieces, rest)
    expected = checked(file)
    assert (lines, errors, end.n_lines) == (*expected[:2], 2)
    assert [(found.line, found.code) for found in errors] == [
        (2, "invalid_json_line"),
        (3, "invalid_json_line"),
        (5, "line_too_large"),
        (6, "duplicate_custom_id"),
    ]


@pytest.mark.parametrize(
    ("content", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[]", "invalid_json_line", None),
        (b"null", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (b"[" * 4000, "invalid_json_line", None),
        (b'{"body": ' + b"[" * 4000 + b"}", "invalid_json_line", None),
        (line("a") + b"x", "invalid_json_line", None),
        (line("absent"), "missing_required_parameter", "custom_id"),
        (line(None), "missing_required_parameter", "custom_id"),
        (line(1), "invalid_type", "custom_id"),
        (line(""), "invalid_custom_id", "custom_id"),
        (line("x" * (MAX_ID_LENGTH + 1)), "invalid_custom_id", "custom_id"),
        (line("a\0"), "invalid_custom_id", "custom_id"),
        (line(method="absent"), "missing_required_parameter", "method"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url=None), "missing_required_parameter", "url"),
        (line(url="/v1/completions"), "invalid_url", "url"),
        (line(body="absent"), "missing_required_parameter", "body"),
        (line(body=[]), "invalid_type", "body"),
        (line(body={}), "missing_required_parameter", "body.model"),
        (line(body={"model": ""}), "missing_required_parameter", "body.model"),
        (line(body={"model": {}}), "invalid_type", "body.model"),
        (line(body={"model": "m", "stream": True}), "unsupported_parameter", "body.stream"),
        (line(body={"model": "m", "background": True}), "unsupported_parameter", "body.background"),
        (line(priority=1), "unknown_parameter", "priority"),
    ],
)
def test_an_error_names_its_line_and_field(content: bytes, code: str, param: str | None) -> None:
    found = error(line("first") + b"\n" + content + b"\n" + line("last"))
    assert (found.line, found.code, found.param) == (2, code, param)
    assert found.message.endswith(".")


def test_what_is_false_or_null_is_absent() -> None:
    assert not checked(line(body={"model": "m", "stream": False, "background": None}))[1]


@pytest.mark.parametrize("file", [b"", b"\n\n", b"\xef\xbb\xbf", b" \r\n"])
def test_an_empty_file(file: bytes) -> None:
    found = error(file)
    assert (found.line, found.code) == (None, "empty_file")


def test_a_line_that_is_too_large_is_not_kept() -> None:
    limit = len(line("a"))
    assert not checked(line("a") + b"\r\n" + line("b"), max_line_bytes=limit)[1]
    found = error(line("a") + b" \n" + line("b"), max_line_bytes=limit)
    assert (found.line, found.code) == (1, "line_too_large")
    checker = Checker(ENDPOINT, max_line_bytes=100)
    for _ in range(50):
        assert not list(checker.feed(b"x" * 90))
        assert len(checker._line) <= 200


def test_there_is_a_limit_of_lines() -> None:
    file = b"\n".join(line(str(i)) for i in range(4))
    assert not checked(file, max_lines=4)[1]
    lines, [found], _ = checked(file, max_lines=2)
    assert (found.line, found.code, len(lines)) == (3, "too_many_requests", 2)


def test_the_check_stops_after_many_errors() -> None:
    _, errors, _ = checked(b"x\n" * (MAX_ERRORS + 50))
    assert [found.line for found in errors] == list(range(1, MAX_ERRORS + 1))


def test_parts_have_a_limited_number_of_lines() -> None:
    parts = parts_of(b"\n".join(line(str(i)) for i in range(2 * GROUP + 1)))
    assert [len(part.lines) for part in parts] == [GROUP, GROUP, 1]


@given(st.binary(max_size=200))
def test_any_content_is_checked(content: bytes) -> None:
    lines, errors, _ = checked(content)
    assert errors or lines
