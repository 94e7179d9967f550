"""Checks the input file of a batch, piece by piece. PURE."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct

from anyserve_common.text import shortened
from openai_server.store.batch_records import BatchLine

MAX_LINES = 50_000
MAX_BYTES = 200_000_000
"""Bytes of an input file."""
MAX_ID_LENGTH = 512
"""Characters of a `custom_id`."""
MAX_ERRORS = 100
"""Errors after which the rest of the file is not read."""
GROUP = 500
"""Lines that are passed on together, at most."""
BOM = b"\xef\xbb\xbf"
METHOD = "POST"
KEYS = ("custom_id", "method", "url", "body")
REFUSED = {
    "stream": "'stream' is not supported in a batch: the output file has complete responses.",
    "background": "'background' is not supported in a batch, whose lines run in the background already.",
}
"""Fields of a body that must not be true, with the message."""

T = TypeVar("T")
_NULL, _TRUE = Raw(b"null"), Raw(b"true")


class LineError(Struct, frozen=True):
    """An error of the input file, as clients get it."""

    code: str
    message: str
    line: int | None
    """Counted from 1; None for an error of the whole file."""
    param: str | None


class Checked(Struct, frozen=True):
    """A part of the result. The last part has `is_end`."""

    lines: list[BatchLine] = []
    errors: list[LineError] = []
    is_end: bool = False
    n_lines: int = 0
    """Lines so far."""
    model: str | None = None
    """The model of the first line, in the last part."""


class _BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param


class Checker:
    """Checks the lines of a batch whose lines all have the URL `endpoint`."""

    def __init__(self, endpoint: str, *, max_line_bytes: int, max_lines: int = MAX_LINES) -> None:
        self._endpoint, self._max_line_bytes, self._max_lines = endpoint, max_line_bytes, max_lines
        self._lines: list[BatchLine] = []
        self._errors: list[LineError] = []
        self._n_errors = 0
        self._ids: set[str] = set()
        self._model: str | None = None
        self._line = bytearray()
        """The beginning of the next line, which is incomplete."""
        self._n_line_bytes = 0
        """Its bytes so far; of one that is too large only the number is kept."""
        self._position = 0
        """Place in the file where it begins."""
        self._number = 0
        """Number of lines before it, empty ones included."""
        self._empty: list[int] = []
        """Numbers of the empty lines since the last one that is not empty."""
        self._has_begun = False

    @property
    def is_done(self) -> bool:
        """Whether the rest of the file is of no interest."""
        return self._n_errors >= MAX_ERRORS

    def feed(self, data: bytes) -> Iterator[Checked]:
        """Takes the next piece of the file. Returns what is complete, in groups of at most GROUP lines."""
        start = 0
        while (end := data.find(b"\n", start)) >= 0 and not self.is_done:
            self._extend(memoryview(data)[start:end])
            self._end_line(n_break=1)
            start = end + 1
            if len(self._lines) >= GROUP:
                yield self._group()
        self._extend(memoryview(data)[start:])

    def end(self) -> Checked:
        """The last part."""
        if self._n_line_bytes and not self.is_done:
            self._end_line(n_break=0)
        if not self._ids and not self._n_errors:
            self._add_error("empty_file", "The input file has no requests.", None, None)
        return self._group(is_end=True)

    def _group(self, *, is_end: bool = False) -> Checked:
        model = self._model if is_end else None
        checked = Checked(self._lines, self._errors, is_end, len(self._ids), model)
        self._lines, self._errors = [], []
        return checked

    def _extend(self, data: memoryview) -> None:
        self._n_line_bytes += len(data)
        if self._n_line_bytes <= self._max_line_bytes + len(BOM) + 1:  # and the end of the line
            self._line += data
        else:
            self._line.clear()

    def _end_line(self, *, n_break: int) -> None:
        start, n_bytes = self._position, self._n_line_bytes
        line = bytes(self._line)
        if not self._has_begun and line.startswith(BOM):
            line, start, n_bytes = line[len(BOM) :], start + len(BOM), n_bytes - len(BOM)
        self._has_begun = True
        if line.endswith(b"\r"):
            line, n_bytes = line[:-1], n_bytes - 1
        if n_bytes and (n_bytes > self._max_line_bytes or line.strip()):
            self._check(line, start, n_bytes)
        else:
            self._empty.append(self._number)
        self._position += self._n_line_bytes + n_break
        self._number += 1
        self._n_line_bytes = 0
        self._line.clear()

    def _check(self, line: bytes, start: int, n_bytes: int) -> None:
        for number in self._empty:
            self._add_error("invalid_json_line", "The line is empty.", number, None)
        self._empty.clear()
        try:
            if n_bytes > self._max_line_bytes:
                limit = f"{self._max_line_bytes} bytes, this server's limit"
                raise _BadLine("line_too_large", f"The line has {n_bytes} bytes, which is more than {limit}.")
            custom_id, model = _request(line, self._endpoint)
            if custom_id in self._ids:
                raise _BadLine(
                    "duplicate_custom_id",
                    f"The custom_id '{shortened(custom_id)}' is that of an earlier line: it must be unique in a batch.",
                    "custom_id",
                )
            if len(self._ids) >= self._max_lines:
                self._n_errors = MAX_ERRORS  # one error is enough
                raise _BadLine("too_many_requests", f"The input file has more than {self._max_lines} lines.")
        except _BadLine as error:
            self._add_error(error.code, error.message, self._number, error.param)
            return
        if not self._ids:
            self._model = model
        if not self._n_errors:
            self._lines.append(BatchLine(len(self._ids), custom_id, start, n_bytes))
        self._ids.add(custom_id)

    def _add_error(self, code: str, message: str, number: int | None, param: str | None) -> None:
        if len(self._errors) < MAX_ERRORS:
            self._errors.append(LineError(code, message, None if number is None else number + 1, param))
        self._n_errors += 1


def body_of(line: bytes) -> bytes:
    """The body of the request in a line that was checked."""
    return bytes(msgspec.json.decode(line, type=dict[str, Raw])["body"])


def _request(line: bytes, endpoint: str) -> tuple[str, str]:
    """The custom_id and the model of the request in a line. Raises _BadLine."""
    with _parsing("invalid_json_line", "The line is not a valid JSON object"):
        line.decode()
        fields = msgspec.json.decode(line, type=dict[str, Raw])
    for name in fields.keys() - set(KEYS):
        raise _BadLine(
            "unknown_parameter",
            f"Unknown parameter: '{shortened(name)}'. A line has {', '.join(KEYS)}.",
            shortened(name),
        )
    custom_id = _value(fields, "custom_id", str, "a string")
    if not 1 <= len(custom_id) <= MAX_ID_LENGTH or "\0" in custom_id:
        raise _BadLine(
            "invalid_custom_id",
            f"'custom_id' must have between 1 and {MAX_ID_LENGTH} characters, without U+0000.",
            "custom_id",
        )
    if _value(fields, "method", str, "a string") != METHOD:
        raise _BadLine("invalid_method", f"'method' must be '{METHOD}'.", "method")
    if _value(fields, "url", str, "a string") != endpoint:
        raise _BadLine("invalid_url", f"'url' must be the endpoint of the batch, '{endpoint}'.", "url")
    body = _value(fields, "body", dict[str, Raw], "an object")
    model = _value(body, "model", str, "a string", "body.")
    if not model:
        raise _BadLine("missing_required_parameter", "'body.model' is empty.", "body.model")
    for name, message in REFUSED.items():
        if body.get(name) == _TRUE:
            raise _BadLine("unsupported_parameter", message, f"body.{name}")
    return custom_id, model


def _value(fields: Mapping[str, Raw], name: str, type: type[T], words: str, prefix: str = "") -> T:
    raw, param = fields.get(name), f"{prefix}{name}"
    if raw is None or raw == _NULL:
        raise _BadLine("missing_required_parameter", f"'{param}' is missing.", param)
    with _parsing("invalid_type", f"'{param}' must be {words}", param):
        return msgspec.json.decode(raw, type=type)


@contextmanager
def _parsing(code: str, message: str, param: str | None = None) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise _BadLine(code, f"{message}: it is not UTF-8 at byte {error.start}.", param) from None
    except msgspec.ValidationError:
        raise _BadLine(code, f"{message}.", param) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise _BadLine(code, f"{message}: {shortened(str(error))}.", param) from None
