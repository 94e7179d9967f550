"""Log lines, as text or as one JSON object each.

What a line has beside its message are `fields`. Prompts, answers and keys are never among them. Whatever a client sent
that gets into a line, or into the text of an exception, has its unprintable characters as escapes: it can't begin a
line of its own, move a terminal's cursor, or turn the direction of what follows it.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from time import localtime, strftime, time
from typing import Any, TextIO

from anyserve_common.text import as_json, printable

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)


def no_request() -> str:
    """The id of the current request in a program that doesn't keep one."""
    return ""


def log_fields(log: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Logs the message with its fields. Fields that are None or empty are left out."""
    if not log.isEnabledFor(level):
        return
    present = {name: value for name, value in fields.items() if value is not None and value != ""}
    match log.root.handlers:
        case [LineHandler() as handler] if not log.handlers:  # a LogRecord takes longer than all else here
            handler.write_line(level, log.name, message, present)
        case _:
            log.log(level, "%s", message, extra={"fields": present})


def set_up(level: str, format: str, request_id: Callable[[], str] = no_request) -> None:
    """Logs to stderr, lines of `level` and above. `request_id` returns the id of the current request, or empty text."""
    handler = LineHandler()
    handler.setFormatter(formatter(format, request_id))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What no line shows need not be found out for it: a third of what a line costs. (Logging HOWTO, "Optimization".)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def formatter(format: str, request_id: Callable[[], str] = no_request) -> "TextLines | JSONLines":
    return JSONLines(request_id) if format == JSON else TextLines(request_id)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once, or all lines of a `together` block with one write, which costs as much as one line."""

    _held: list[str] | None = None
    """Lines of the block that is under way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write_line(self, level: int, name: str, message: str, fields: Mapping[str, Any]) -> None:
        """Writes what `emit` would write for a record of these."""
        lines = self.formatter
        assert isinstance(lines, TextLines | JSONLines)
        self.acquire()
        try:
            self._write(lines.line(time(), logging.getLevelName(level), name, message, fields) + self.terminator)
        except Exception:
            self.handleError(logging.LogRecord(name, level, "", 0, message, (), None))
        finally:
            self.release()

    def _write(self, line: str) -> None:
        if self._held is not None:
            self._held.append(line)
            return
        self.stream.write(line)
        self.flush()

    def hold(self) -> None:
        self._held = []

    def write_held(self) -> None:
        """Writes the lines that are held, in their order."""
        self.acquire()  # lines of other threads may come
        try:
            held, self._held = self._held, None
            if held:
                self.stream.write("".join(held))
                self.flush()
        finally:
            self.release()


@contextmanager
def together() -> Iterator[None]:
    """Lines that are logged in the block are written at its end."""
    handlers = [handler for handler in logging.getLogger().handlers if isinstance(handler, LineHandler)]
    for handler in handlers:
        handler.hold()
    try:
        yield
    finally:
        for handler in handlers:
            handler.write_held()


class TextLines(logging.Formatter):
    def __init__(self, request_id: Callable[[], str] = no_request) -> None:
        super().__init__()
        self._request_id = request_id
        self._second = -1
        self._second_text = ""

    def line(self, created: float, level: str, name: str, message: str, fields: Mapping[str, Any]) -> str:
        """`created` in Unix seconds. Its form is that of logging, which formats each second anew for each line."""
        if (second := int(created)) != self._second:
            self._second, self._second_text = second, strftime(self.default_time_format, localtime(second))
        parts = [f"{self._second_text},{int((created - second) * 1000):03d} {level} {name}: {message}"]
        if "request_id" not in fields and (id := self._request_id()):
            parts.append(f"[{id}]")
        parts += [f"{name}={_shown(value)}" for name, value in fields.items()]
        return printable(" ".join(parts))

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        return self.line(record.created, record.levelname, record.name, record.message, fields)

    def formatException(self, ei: Any) -> str:
        """Indented, as a line of a message could be taken for one of the log."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


_NEEDS_QUOTES = re.compile(r'[^!-~]|["=]')


def _shown(value: object) -> str:
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return as_json(text) if _NEEDS_QUOTES.search(text) else text


class JSONLines(logging.Formatter):
    def __init__(self, request_id: Callable[[], str] = no_request) -> None:
        super().__init__()
        self._request_id = request_id

    def line(self, created: float, level: str, name: str, message: str, fields: Mapping[str, Any]) -> str:
        """`created` in Unix seconds."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds"),
            "level": level.lower(),
            "logger": name,
            "message": message,
        }
        if id := self._request_id():
            line["request_id"] = id
        line |= fields
        return printable(as_json(line))

    def format(self, record: logging.LogRecord) -> str:
        fields = getattr(record, "fields", {})
        if record.exc_info:
            fields = {**fields, "exception": self.formatException(record.exc_info)}
        return self.line(record.created, record.levelname, record.name, record.getMessage(), fields)
