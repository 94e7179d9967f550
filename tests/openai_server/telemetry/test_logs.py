import json
import logging
import sys

import pytest

from openai_server.telemetry import logs
from openai_server.telemetry import request_context as current
from openai_server.telemetry.record import Record


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("openai_server.x")


def record(log: logging.Logger, message: str, *args: object, **fields: object) -> logging.LogRecord:
    extra = {"fields": fields} if fields else None
    return log.makeRecord(log.name, logging.WARNING, "", 1, message, args, None, extra=extra)


def test_a_line_of_text(log: logging.Logger) -> None:
    line = logs.Text().format(record(log, "hello %s", "you", a=1, b=0.25, c="two words", d='q"', e=""))
    assert line.endswith(r' WARNING openai_server.x: hello you a=1 b=0.25 c="two words" d="q\"" e=')


def test_a_line_of_json(log: logging.Logger) -> None:
    line = logs.JSONLines().format(record(log, "two\nlines", a=1, b=None))
    assert "\n" not in line
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "warning", "logger": "openai_server.x", "message": "two\nlines", "a": 1, "b": None}


def test_an_exception_in_json(log: logging.Logger) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        failed = log.makeRecord(log.name, logging.ERROR, "", 1, "failed", (), sys.exc_info())
    told = json.loads(logs.JSONLines().format(failed))
    assert told["exception"].endswith("ValueError: bad")


UNPRINTABLE = "a\x00\x1b[2J\n2026-01-01 x\x7f\x85\x9b\u061c\u200f\u2028\u2029\u202e\u2066\ufeff\ud800\U000e0041"


@pytest.mark.parametrize("format", logs.FORMATS)
def test_nothing_unprintable_is_in_a_line(log: logging.Logger, format: str) -> None:
    formatter = logs.Text() if format == logs.TEXT else logs.JSONLines()
    line = formatter.format(record(log, f"hello {UNPRINTABLE}", client=UNPRINTABLE))
    assert line.isprintable()
    for escape in (r"\u001b[2J\n2026", r"\u0085\u009b\u061c", r"\u2028\u2029\u202e\u2066\ufeff\ud800\udb40\udc41"):
        assert line.count(escape) == 2
    if format == logs.JSON:
        assert json.loads(line)["client"] == UNPRINTABLE


def test_what_can_be_printed_stays_as_it_is(log: logging.Logger) -> None:
    assert logs.Text().format(record(log, r"grün 漢字 😀 a\b")).endswith(r"grün 漢字 😀 a\b")
    assert (
        json.loads(logs.JSONLines().format(record(log, r"grün 漢字 😀 a\b", n=2**70)))["message"] == r"grün 漢字 😀 a\b"
    )


@pytest.mark.parametrize("format", logs.FORMATS)
def test_the_message_of_an_exception_makes_no_line_of_the_log(log: logging.Logger, format: str) -> None:
    formatter = logs.Text() if format == logs.TEXT else logs.JSONLines()
    try:
        raise ValueError(UNPRINTABLE)
    except ValueError:
        failed = log.makeRecord(log.name, logging.ERROR, "", 1, "failed", (), sys.exc_info())
    first, *lines = formatter.format(failed).split("\n")
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert "ValueError: a" in (lines[-2] if format == logs.TEXT else json.loads(first)["exception"])


@pytest.mark.parametrize("format", logs.FORMATS)
def test_what_is_said_for_a_request_has_its_id(log: logging.Logger, format: str) -> None:
    formatter = logs.Text() if format == logs.TEXT else logs.JSONLines()
    assert "abc" not in formatter.format(record(log, "hello"))
    token = current.record.set(Record(id="abc"))
    try:
        assert formatter.format(record(log, "hello")).count("abc") == 1
        assert formatter.format(record(log, "hello", request_id="abc")).count("abc") == 1
    finally:
        current.record.reset(token)
