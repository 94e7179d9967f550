"""Log records on their way to the worker's log, as lines of JSON in stderr. All other output is text."""

import json
import logging
import os
from typing import Any

PREFIX = "\x1e"
"""Begins the line of a record."""
MAX_TEXT = 32 << 10
"""Characters of a message, and of an exception's traceback."""


_handler: "RecordLines | None" = None
"""That of the process, once it is set up."""


class RecordLines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            fields: dict[str, Any] = {
                "level": record.levelno,
                "logger": record.name,
                "message": _shortened(record.getMessage()),
            }
            if record.exc_info and record.exc_info[0]:
                fields["exception"] = _end_of(logging.Formatter().formatException(record.exc_info))
            _write((PREFIX + json.dumps(fields) + "\n").encode())
        except RecursionError:
            raise
        except Exception:
            self.handleError(record)


class HostLogger(logging.Logger):
    """The host's own logger. It works whatever the pipeline does to levels and handlers, such as `logging.disable`, or
    `dictConfig`, which disables all loggers that it doesn't name."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.parent = logging.getLogger()

    def isEnabledFor(self, level: int) -> bool:
        return level >= _handler.level if _handler else super().isEnabledFor(level)

    def callHandlers(self, record: logging.LogRecord) -> None:
        _handler.handle(record) if _handler else super().callHandlers(record)


def set_up(level: str) -> None:
    """Sends records of `level` and above to the worker."""
    global _handler
    _handler = RecordLines(level.upper())
    root = logging.getLogger()
    root.handlers[:] = [_handler]
    root.setLevel(level.upper())
    for name in ("httpx", "httpcore"):  # they log each request
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def _end_of(text: str) -> str:
    """The end of a traceback has the error."""
    return text if len(text) <= MAX_TEXT else "… " + text[-MAX_TEXT:]


def _write(line: bytes) -> None:
    rest = memoryview(line)
    while rest:
        rest = rest[os.write(2, rest) :]
