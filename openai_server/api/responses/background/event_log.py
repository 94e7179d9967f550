"""The log of a background response: the events of its answer as they happened, and what else its stream consists of.
PURE.

One line of JSON for each record. Content, which most records are, is a string; any other record is an array that begins
with its kind. The log has no rendered events: `replay.py` renders them again.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from openai_server.core.errors import APIError
from openai_server.core.events import (
    CallArguments,
    CallBegun,
    Content,
    Event,
    Finish,
    Reasoning,
    Refusal,
    TokenLogprobs,
)
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage

VERSION = 1
"""Version of the log. An older server can't read a newer one."""
END = b"\n"
"""The end of each record."""


class Record(Struct, array_like=True):
    pass


class Head(Record, tag="head"):
    """The first record of each attempt."""

    version: int
    compacts: bool
    """Whether the output is a summary."""
    may_be_empty: bool
    """Whether an answer without items gets no empty message."""
    seals: bool
    """Whether the reasoning is sealed too."""
    queued_tools: Sequence[Mapping[str, Any]] | None = None
    """The tools as the response had them when it was queued, if they have changed; None: they are the same."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """The tools since then, if they have changed."""


class Tool(Record, tag="tool"):
    """How calls of this tool are reported, before the first call of it. Absent for a function with that name."""

    flat_name: str
    kind: str
    name: str
    namespace: str | None


class Sealed(Record, tag="seal"):
    """A sealed text that the next record needs. Sealing the same text again would give another one."""

    text: str


class Completion(Record, tag="end"):
    """The answer is complete."""

    at: float
    """Unix seconds."""
    usage: tuple[int, int, int | None, int | None] | None
    """The fields of Usage. None: the backend doesn't count."""

    @classmethod
    def of(cls, at: float, used: Usage | None) -> "Completion":
        return cls(at, None if used is None else (used.prompt, used.completion, used.cached, used.marked))

    @property
    def used(self) -> Usage | None:
        return None if self.usage is None else Usage(*self.usage)


class Failure(Record, tag="failure"):
    """The fields of an APIError."""

    status: int
    message: str
    param: str | None
    code: str | None
    headers: dict[str, str]

    @classmethod
    def of(cls, error: APIError) -> "Failure":
        return cls(error.status, error.message, error.param, error.code, error.headers)

    @property
    def error(self) -> APIError:
        return APIError(self.status, self.message, param=self.param, code=self.code, headers=self.headers)


class _Reasoning(Record, tag="reasoning"):
    text: str


class _Refusal(Record, tag="refusal"):
    text: str


class _Call(Record, tag="call"):
    index: int
    name: str
    id: str | None
    custom: bool


class _Arguments(Record, tag="arguments"):
    index: int
    text: str
    custom: bool


class _Logprobs(Record, tag="logprobs"):
    tokens: Sequence[tuple[bytes, float | str | None, Sequence[tuple[bytes, float | str]]]]
    """A number that JSON lacks, such as -inf, is a string."""


class _Finish(Record, tag="finish"):
    reason: str
    stop: str | None


_Event = _Reasoning | _Refusal | _Call | _Arguments | _Logprobs | _Finish
Entry = Event | Head | Tool | Sealed | Completion | Failure
"""A record as it is read."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str | _Event | Head | Tool | Sealed | Completion | Failure).decode_lines


def line(record: Record | str) -> bytes:
    return _encode(record) + END


def event_line(event: Event) -> bytes:
    match event:
        case Content(text):
            return line(text)
        case Reasoning(text):
            return line(_Reasoning(text))
        case Refusal(text):
            return line(_Refusal(text))
        case CallBegun(index, name, id, custom):
            return line(_Call(index, name, id, custom))
        case CallArguments(index, text, custom):
            return line(_Arguments(index, text, custom))
        case TokenLogprobs(tokens):
            return line(
                _Logprobs([(token.token, _written(token.logprob), _written_all(token.top)) for token in tokens])
            )
        case Finish(reason, stop):
            return line(_Finish(reason, stop))


def entries(data: bytes) -> list[Entry]:
    """The records of whole lines. Raises msgspec.DecodeError for those of a newer version."""
    return [_read(record) for record in _decode(data)]


def batches(data: bytes, size: int) -> Iterable[bytes]:
    """The lines, in parts of at most `size` bytes where single lines aren't longer."""
    start = 0
    while len(data) - start > size:
        end = data.rfind(END, start, start + size) + 1 or data.index(END, start) + 1
        yield data[start:end]
        start = end
    if start < len(data):
        yield data[start:] if start else data


def _read(record: str | _Event | Head | Tool | Sealed | Completion | Failure) -> Entry:
    match record:
        case str():
            return Content(record)
        case _Reasoning(text=text):
            return Reasoning(text)
        case _Refusal(text=text):
            return Refusal(text)
        case _Call(index=index, name=name, id=id, custom=custom):
            return CallBegun(index, name, id, custom)
        case _Arguments(index=index, text=text, custom=custom):
            return CallArguments(index, text, custom)
        case _Logprobs(tokens=tokens):
            return TokenLogprobs(
                [
                    TokenLogprob(
                        token,
                        None if logprob is None else float(logprob),
                        [(other, float(logprob)) for other, logprob in top],
                    )
                    for token, logprob, top in tokens
                ]
            )
        case _Finish(reason=reason, stop=stop):
            return Finish(reason, stop)
    return record


def _written(number: float | None) -> float | str | None:
    return number if number is None or isfinite(number) else str(number)


def _written_all(top: Sequence[tuple[bytes, float]]) -> list[tuple[bytes, float | str]]:
    return [(token, logprob if isfinite(logprob) else str(logprob)) for token, logprob in top]
