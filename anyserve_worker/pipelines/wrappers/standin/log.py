"""`log`, which takes its calls as loguru's logger does and writes to Python's logging."""

import contextlib
import logging
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

LEVELS = {
    "TRACE": 5,
    "DEBUG": logging.DEBUG,
    "INFO": logging.INFO,
    "SUCCESS": 25,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
    "CRITICAL": logging.CRITICAL,
}
_MARKUP = re.compile(r"</?[A-Za-z][\w #,]*>|</>")
_FRAMES = 3
"""Frames between a call of `log.info` and logging's own."""

_logger = logging.getLogger("anyserve_worker.pipelines.log")


@dataclass(frozen=True)
class Log:
    _extra: dict[str, Any] = field(default_factory=dict)
    _exception: Any = None
    _depth: int = 0
    _colors: bool = False
    _lazy: bool = False

    def opt(
        self, *, exception: Any = None, depth: int = 0, colors: bool = False, lazy: bool = False, **_: Any
    ) -> "Log":
        """A log with these options; others of loguru have no effect. `colors`: the message has markup, which is
        removed. `lazy`: arguments are functions."""
        return replace(self, _exception=exception, _depth=depth, _colors=colors, _lazy=lazy)

    def bind(self, **extra: Any) -> "Log":
        """A log that adds these values to its messages."""
        return replace(self, _extra={**self._extra, **extra})

    @contextlib.contextmanager
    def contextualize(self, **extra: Any) -> Iterator[None]:
        yield

    def trace(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["TRACE"], message, arguments, keywords)

    def debug(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["DEBUG"], message, arguments, keywords)

    def info(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["INFO"], message, arguments, keywords)

    def success(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["SUCCESS"], message, arguments, keywords)

    def warning(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["WARNING"], message, arguments, keywords)

    def error(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["ERROR"], message, arguments, keywords)

    def critical(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        self._write(LEVELS["CRITICAL"], message, arguments, keywords)

    def exception(self, message: Any, *arguments: Any, **keywords: Any) -> None:
        replace(self, _exception=True, _depth=self._depth + 1).error(message, *arguments, **keywords)

    def log(self, level: str | int, message: Any, *arguments: Any, **keywords: Any) -> None:
        number = LEVELS.get(level.upper(), logging.INFO) if isinstance(level, str) else level
        self._write(number, message, arguments, keywords)

    def _write(self, level: int, message: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        if not _logger.isEnabledFor(level):
            return
        text = str(message)
        if self._colors:
            text = _MARKUP.sub("", text)
        if self._lazy:
            arguments = tuple(argument() for argument in arguments)
            keywords = {name: value() for name, value in keywords.items()}
        if arguments or keywords:
            with contextlib.suppress(LookupError, ValueError):  # the message alone is better than an error
                text = text.format(*arguments, **keywords)
        if self._extra:
            text += " | " + ", ".join(f"{name}={value!r}" for name, value in self._extra.items())
        exception = sys.exc_info() if self._exception is True else self._exception
        _logger.log(level, "%s", text, exc_info=exception, stacklevel=_FRAMES + self._depth)


log = Log()
