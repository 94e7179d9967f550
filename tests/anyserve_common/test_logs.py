import io
import json
import logging
import sys

import pytest

from anyserve_common import logs


@pytest.fixture
def log() -> logging.Logger:
    return logging.getLogger("anyserve_common.x")


def record(log: logging.Logger, message: str, *args: object, **fields: object) -> logging.LogRecord:
    extra = {"fields": fields} if fields else None
    return log.makeRecord(log.name, logging.WARNING, "", 1, message, args, None, extra=extra)


def test_a_text_line_has_level_logger_message_and_fields(log: logging.Logger) -> None:
    line = logs.TextLines().format(record(log, "hello %s", "you", a=1, b=0.25, c="two words", d='q"', e=""))
    assert line.endswith(r' WARNING anyserve_common.x: hello you a=1 b=0.25 c="two words" d="q\"" e=')


def test_a_json_line_has_level_logger_message_and_fields(log: logging.Logger) -> None:
    line = logs.JSONLines().format(record(log, "two\nlines", a=1, b=None))
    assert "\n" not in line
    content = json.loads(line)
    assert content.pop("time").endswith("+00:00")
    assert content == {"level": "warning", "logger": "anyserve_common.x", "message": "two\nlines", "a": 1, "b": None}


def test_a_json_line_contains_the_exception(log: logging.Logger) -> None:
    try:
        raise ValueError("bad")
    except ValueError:
        failed = log.makeRecord(log.name, logging.ERROR, "", 1, "failed", (), sys.exc_info())
    content = json.loads(logs.JSONLines().format(failed))
    assert content["exception"].endswith("ValueError: bad")


UNPRINTABLE = "a\x00\x1b[2J\n2026-01-01 x\x7f\x85\x9b\u061c\u200f\u2028\u2029\u202e\u2066\ufeff\ud800\U000e0041"


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_line_contains_nothing_unprintable(log: logging.Logger, format: str) -> None:
    line = logs.formatter(format).format(record(log, f"hello {UNPRINTABLE}", request_id=UNPRINTABLE))
    assert line.isprintable()
    for escape in (r"\u001b[2J\n2026", r"\u0085\u009b\u061c", r"\u2028\u2029\u202e\u2066\ufeff\ud800\udb40\udc41"):
        assert line.count(escape) == 2
    if format == logs.JSON:
        assert json.loads(line)["request_id"] == UNPRINTABLE


def test_printable_characters_are_not_escaped(log: logging.Logger) -> None:
    message = r"grün 漢字 😀 a\b"
    assert logs.TextLines().format(record(log, message)).endswith(message)
    assert json.loads(logs.JSONLines().format(record(log, message, n=2**70)))["message"] == message


@pytest.mark.parametrize("format", logs.FORMATS)
def test_an_exceptions_message_can_not_start_a_log_line(log: logging.Logger, format: str) -> None:
    try:
        raise ValueError(UNPRINTABLE)
    except ValueError:
        failed = log.makeRecord(log.name, logging.ERROR, "", 1, "failed", (), sys.exc_info())
    first, *lines = logs.formatter(format).format(failed).split("\n")
    assert all(line.startswith("  ") and line.isprintable() for line in lines)
    assert "ValueError: a" in (lines[-2] if format == logs.TEXT else json.loads(first)["exception"])


@pytest.mark.parametrize("format", logs.FORMATS)
def test_a_line_has_the_id_of_the_current_request_once(log: logging.Logger, format: str) -> None:
    ids = [""]
    formatter = logs.formatter(format, lambda: ids[0])
    assert "abc" not in formatter.format(record(log, "hello"))
    ids[0] = "abc"
    assert formatter.format(record(log, "hello")).count("abc") == 1
    assert formatter.format(record(log, "hello", request_id="abc")).count("abc") == 1


def test_fields_without_a_value_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        logs.log_fields(logging.getLogger("x"), logging.INFO, "100 %", {"a": None, "b": "", "c": 0, "d": False})
    (line,) = caplog.records
    assert logs.TextLines().format(line).endswith(" INFO x: 100 % c=0 d=False")


class Writes(io.StringIO):
    """Keeps every write as a part."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []

    def write(self, text: str) -> int:
        self.parts.append(text)
        return len(text)


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> Writes:
    writes = Writes()
    handler = logs.LineHandler(writes)
    handler.setFormatter(logging.Formatter("%(message)s"))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    return writes


def test_each_line_is_written_at_once(log: logging.Logger, writes: Writes) -> None:
    log.warning("a")
    log.warning("b")
    assert writes.parts == ["a\n", "b\n"]


def test_the_lines_of_a_block_are_one_write(log: logging.Logger, writes: Writes) -> None:
    with logs.together():
        for line in "abc":
            log.warning(line)
        assert not writes.parts
    with logs.together():
        pass
    log.warning("d")
    assert writes.parts == ["a\nb\nc\n", "d\n"]


def test_the_lines_of_a_block_that_fails_are_written(log: logging.Logger, writes: Writes) -> None:
    def fail() -> None:
        with logs.together():
            log.warning("a")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert writes.parts == ["a\n"]


def test_a_lines_time_is_formatted_as_logging_does_it() -> None:
    lines, plain = logs.TextLines(), logging.Formatter()
    for created in (0.0, 1.0009, 1.9999, 1_700_000_000.5, 1_700_000_000.25, 1_700_000_001.25):
        line = record(logging.getLogger(), "x")
        line.created, line.msecs = created, int((created - int(created)) * 1000)
        line.message = "x"
        assert lines.formatMessage(line).startswith(plain.formatTime(line) + " WARNING")


@pytest.mark.parametrize("format", logs.FORMATS)
@pytest.mark.parametrize("only_handler", [True, False])
def test_fields_are_logged_the_same_with_and_without_other_handlers(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch, format: str, only_handler: bool
) -> None:
    stream = io.StringIO()
    handler = logs.LineHandler(stream)
    handler.setFormatter(logs.formatter(format, lambda: "abc"))
    handlers = [handler] if only_handler else [handler, logging.NullHandler()]
    monkeypatch.setattr(logging.getLogger(), "handlers", handlers)
    log.setLevel(logging.INFO)
    logs.log_fields(log, logging.DEBUG, "not logged", {})
    logs.log_fields(log, logging.INFO, f"100 % {UNPRINTABLE}", {"a": 1, "b": None, "c": UNPRINTABLE})
    (line,) = stream.getvalue().splitlines()
    if format == logs.JSON:
        content = json.loads(line)
        assert content.pop("time").endswith("+00:00")
        expected = {"level": "info", "logger": "anyserve_common.x", "request_id": "abc"}
        assert content == expected | {"message": f"100 % {UNPRINTABLE}", "a": 1, "c": UNPRINTABLE}
    else:
        assert " INFO anyserve_common.x: 100 % a" in line
        assert line.isprintable()
        assert "[abc]" in line


def test_a_line_that_can_not_be_written_is_not_an_error_of_the_request(
    log: logging.Logger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stream = io.StringIO()
    handler = logs.LineHandler(stream)
    handler.setFormatter(logs.formatter(logs.TEXT))
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    stream.close()
    logs.log_fields(log, logging.WARNING, "lost", {})
    assert "Logging error" in capsys.readouterr().err
