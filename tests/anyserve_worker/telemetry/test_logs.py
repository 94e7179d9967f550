import json
import logging
import sys

import pytest

from anyserve_worker.telemetry import logs


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("anyserve_worker.x")


def record(log: logging.Logger, message: str, *args: object, **fields: object) -> logging.LogRecord:
    extra = {"fields": fields} if fields else None
    return log.makeRecord(log.name, logging.WARNING, "", 1, message, args, None, extra=extra)


def test_a_line_of_text(log: logging.Logger) -> None:
    line = logs.Text().format(record(log, "hello %s", "you", a=1, b=0.25, c="two words", d='q"', e=""))
    assert line.endswith(r' WARNING anyserve_worker.x: hello you a=1 b=0.25 c="two words" d="q\"" e=')


def test_a_line_of_json(log: logging.Logger) -> None:
    line = logs.JSONLines().format(record(log, "two\nlines", a=1, b=None))
    assert "\n" not in line
    told = json.loads(line)
    assert told.pop("time").endswith("+00:00")
    assert told == {"level": "warning", "logger": "anyserve_worker.x", "message": "two\nlines", "a": 1, "b": None}


def test_an_exception_in_json(log: logging.Logger) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        failed = log.makeRecord(log.name, logging.ERROR, "", 1, "failed", (), sys.exc_info())
    told = json.loads(logs.JSONLines().format(failed))
    assert told["exception"].endswith("ValueError: bad")


@pytest.mark.parametrize("format", logs.FORMATS)
def test_nothing_unprintable_is_in_a_line(log: logging.Logger, format: str) -> None:
    formatter = logs.Text() if format == logs.TEXT else logs.JSONLines()
    sent = "a\x00\x1b[2J\n2026-01-01 x\x7f\x85\x9b\u200f\u2028\u202e\ud800"
    line = formatter.format(record(log, f"hello {sent}", request_id=sent))
    assert line.isprintable()
    assert line.count(r"\u001b[2J\n2026") == line.count(r"\u0085\u009b\u200f\u2028\u202e\ud800") == 2
    if format == logs.JSON:
        assert json.loads(line)["request_id"] == sent
