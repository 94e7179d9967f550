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
from typing import Any, TextIO

from anyserve_common.text import as_json, printable

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)


def no_request() -> str:
    """The id of the current request in a program that doesn't keep one."""
    return ""


def say(log: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Logs the message with its fields. Fields that are None or empty are left out."""
    present = {name: value for name, value in fields.items() if value is not None and value != ""}
    log.log(level, "%s", message, extra={"fields": present})


def set_up(level: str, format: str, request_id: Callable[[], str] = no_request) -> None:
    """Logs to stderr, lines of `level` and above. `request_id` returns the id of the current request, or empty text."""
    handler = LineHandler()
    handler.setFormatter(formatter(format, request_id))
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What no line shows need not be found out for it: a third of what a line costs. (Logging HOWTO, "Optimization".)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


def formatter(format: str, request_id: Callable[[], str] = no_request) -> logging.Formatter:
    return JSONLines(request_id) if format == JSON else TextLines(request_id)


class LineHandler(logging.StreamHandler[TextIO]):
    """Writes each line at once, or all lines of a `together` block with one write, which costs as much as one line."""

    _held: list[str] | None = None
    """Lines of the block that is under way."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record) + self.terminator
            if self._held is not None:
                self._held.append(line)
                return
            self.stream.write(line)
            self.flush()
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)

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
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._request_id = request_id
        self._second = -1
        self._second_text = ""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """The same as logging's, which formats each second anew for each line."""
        if (second := int(record.created)) != self._second:
            self._second, self._second_text = second, super().formatTime(record, datefmt)[: -len(",000")]
        return f"{self._second_text},{int(record.msecs):03d}"

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        fields: dict[str, Any] = getattr(record, "fields", {})
        if "request_id" not in fields and (id := self._request_id()):
            line += f" [{id}]"
        return printable(" ".join((line, *(f"{name}={_shown(value)}" for name, value in fields.items()))))

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

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if id := self._request_id():
            line["request_id"] = id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable(as_json(line))
