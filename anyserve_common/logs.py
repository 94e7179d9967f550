"""Log lines, as text or as one JSON object each.

A line has a message and `fields`, which never contain prompts, answers or keys. In lines and in the text of exceptions,
unprintable characters are escaped. So text that a client sent can't begin a line of its own, move a terminal's cursor,
or change the direction of the text after it.
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
        case [LineHandler() as handler] if not log.handlers:  # creating a LogRecord takes longer than the rest
            handler.write_line(level, log.name, message, present)
        case _:
            log.log(level, "%s", message, extra={"fields": present})


def set_up(level: str, format: str, request_id: Callable[[], str] = no_request) -> None:
    """Logs lines of `level` and above to stderr. `request_id` returns the current request's id, or an empty string."""
    handler = LineHandler()
    handler.setFormatter(formatter(format, request_id))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # Collecting attributes that no line shows takes a third of a line's time. (Logging HOWTO, "Optimization".)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def formatter(format: str, request_id: Callable[[], str] = no_request) -> "TextLines | JSONLines":
    return JSONLines(request_id) if format == JSON else TextLines(request_id)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once, or all lines of a `together` block with one write, which costs as much as one line."""

    _held: list[str] | None = None
    """Lines of the current `together` block; None outside of one."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._write(self.format(record) + self.terminator)
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

    def write_line(self, level: int, name: str, message: str, fields: Mapping[str, Any]) -> None:
        """Writes the line that `emit` would write for a record with these attributes."""
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
        """Writes the held lines, in order."""
        self.acquire()  # other threads may log meanwhile
        try:
            held, self._held = self._held, None
            if held:
                self._write("".join(held))
        finally:
            self.release()


@contextmanager
def together() -> Iterator[None]:
    """Writes the lines that are logged in the block at its end, together."""
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
        """`created` is in Unix seconds. Its format is that of `logging`, but each second is formatted only once."""
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
        """Returns the traceback indented, because a line of its message could be mistaken for a log line."""
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
        """`created` is in Unix seconds."""
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
        elif record.exc_text:  # from another process
            fields = {**fields, "exception": record.exc_text}
        return self.line(record.created, record.levelname, record.name, record.getMessage(), fields)
