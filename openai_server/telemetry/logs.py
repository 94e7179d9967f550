"""Log lines, as text or as one JSON object each, with the id of the request that they are about.

What a line says beside its message are `fields`. Prompts, answers and keys are never among them. Whatever a client sent
that gets into a line, or into the text of an exception, has its unprintable characters as escapes: it can't begin a
line of its own, move a terminal's cursor, or turn the direction of what follows it.
"""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from anyserve_common.text import as_json, printable
from openai_server.telemetry import request_context as current

TEXT, JSON = "text", "json"
FORMATS = (TEXT, JSON)


def say(log: logging.Logger, level: int, message: str, fields: Mapping[str, Any]) -> None:
    """Fields that are None or empty are left out."""
    told = {name: value for name, value in fields.items() if value is not None and value != ""}
    log.log(level, "%s", message, extra={"fields": told})


def set_up(level: str, format: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(JSONLines() if format == JSON else Text())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # What no line shows need not be found out for it: a third of what a line costs. (Logging HOWTO, "Optimization".)
    logging._srcfile = None
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False


class Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        line = super().formatMessage(record)
        fields: dict[str, Any] = getattr(record, "fields", {})
        if "request_id" not in fields and (id := current.request_id()):
            line += f" [{id}]"
        return printable(" ".join((line, *(f"{name}={_shown(value)}" for name, value in fields.items()))))

    def formatException(self, ei: Any) -> str:
        """Indented, as a line of a message could be taken for one of the log."""
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))


_NEEDS_QUOTES = re.compile(r'[^!-~]|["=]')


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return as_json(text) if _NEEDS_QUOTES.search(text) else text


class JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if id := current.request_id():
            line["request_id"] = id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return printable(as_json(line))
