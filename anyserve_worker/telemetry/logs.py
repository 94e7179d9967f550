"""Log lines, as text or as one JSON object each.

What a line says beside its message are `fields`. Prompts and answers are never among them.
"""

import logging
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

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


class Text(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = getattr(record, "fields", {})
        return " ".join((super().formatMessage(record), *(f"{name}={_shown(v)}" for name, v in fields.items())))


_NEEDS_QUOTES = re.compile(r'[^!-~]|["=]')


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return orjson.dumps(text).decode() if _NEEDS_QUOTES.search(text) else text


class JSONLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()
