"""What is known of one HTTP request while it is answered: for its access line, its metrics and its span.

The record of the request that a task works for is in a context variable, so that whoever learns something of the
request can write it down without passing the record through all that lies between. Tasks that serve many requests
must start without it.
"""

import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from os import urandom
from typing import Any

from anyserve_common import trace_context
from openai_server.core.usage import Usage
from openai_server.telemetry.endpoints import OTHER
from openai_server.telemetry.request_context import record as _current
from protos import contract

MAX_ID_LENGTH = 128
_SANE_ID = re.compile(rf"[!-~]{{1,{MAX_ID_LENGTH}}}", re.ASCII)
MAX_PATH_LENGTH = 256
"""Of what is logged."""


def request_id(given: str) -> str:
    """The client's own, if it is visible ASCII of a sane length, or else a new one."""
    return given if given and _SANE_ID.fullmatch(given) else f"req_{urandom(16).hex()}"


@dataclass(slots=True, eq=False)
class Record:
    """Times are those of `clock`. Token counts are known at the end of an answer, and only if the backend says."""

    id: str = ""
    method: str = ""
    path: str = ""
    endpoint: str = OTHER
    client: str = ""
    caller: str = ""
    """Name of the caller for the backend; empty without API keys."""
    traceparent: str = ""
    """Of W3C's trace context: the span that calls to the backend belong to."""
    tracestate: str = ""
    """What tracing systems know of that trace; empty without one."""
    clock: Callable[[], float] = time.perf_counter
    on_waiting: Callable[["Record", int], None] = lambda _, __: None
    """Told 1 when a stream begins to wait for its first token, and -1 when it does no more."""
    status: int = 0
    """Of HTTP. Of a stream that failed midway, what it would have been, and 499 if the client left before the end."""
    model: str = ""
    """That serves it; empty until it is found."""
    stream: bool = False
    choices: int = 1
    usage: Usage | None = None
    """Of an answer that came to its end."""
    delivered: int = 0
    """Tokens of a stream that was cut off."""
    finish_reasons: Sequence[str] = ()
    """One a choice, in the order in which they ended."""
    started: float = 0
    first_token: float | None = None
    """Of a stream."""
    ended: float = 0
    span: Any = None

    def __post_init__(self) -> None:
        self.started = self.clock()

    # ---- As it goes on

    def begin_stream(self, choices: int, finish_reasons: Sequence[str] = ()) -> None:
        """Again, if the request is tried again. `finish_reasons` grows as the choices end."""
        if not self.stream:
            self.on_waiting(self, 1)
        self.stream, self.choices, self.finish_reasons = True, choices, finish_reasons

    def take_first_token(self) -> None:
        self.first_token = self.clock()
        self.on_waiting(self, -1)

    def cut_off(self, usages: Iterable[Usage | None], n_taken: int) -> None:
        """A stream of which so much came: pieces, and what is known of the prompts whose answers are whole."""
        self.delivered = max(n_taken, sum(usage.completion for usage in usages if usage is not None))

    def take_answer(self, usage: Usage | None, n_choices: int = 1, finish_reasons: Sequence[str] = ()) -> None:
        """What a whole answer had. `finish_reasons` are those that the backend reported."""
        self.usage, self.choices, self.finish_reasons = usage, n_choices or 1, finish_reasons

    def end(self) -> None:
        self.ended = self.clock()
        if self.stream and self.first_token is None:
            self.on_waiting(self, -1)

    # ---- What follows from it

    @property
    def completion_tokens(self) -> int | None:
        return self.usage.completion if self.usage else self.delivered or None

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.ended - self.started

    @property
    def time_to_first_token(self) -> float | None:
        """Seconds; None if there was none, or nobody could see it."""
        return None if self.first_token is None else self.first_token - self.started

    @property
    def time_per_output_token(self) -> float | None:
        """Mean seconds between the tokens of a choice, behind the first; None if unknown."""
        if self.first_token is None or self.usage is None:
            return None
        gaps = self.usage.completion / self.choices - 1
        return (self.ended - self.first_token) / gaps if gaps > 0 else None

    @property
    def headers(self) -> list[tuple[str, str]]:
        """What a call to the backend says of the request that it is for: metadata of gRPC."""
        headers = [(contract.METADATA_REQUEST_ID, self.id)] if self.id else []
        if self.traceparent:
            headers.append((contract.METADATA_TRACEPARENT, self.traceparent))
            if self.tracestate:
                headers.append((contract.METADATA_TRACESTATE, self.tracestate))
        return headers


def current() -> Record:
    """Of the request that this task works for; one that nobody reads, if there is none."""
    return _current.get() or Record()


def begin(scope: Mapping[str, Any], endpoint: str, on_waiting: Callable[[Record, int], None]) -> Record:
    """The record of an ASGI request, which is the current one from now on."""
    headers = dict(reversed(scope["headers"]))  # the first of each name
    client = scope.get("client")
    given = headers.get(b"traceparent")
    parent = trace_context.parent(given.decode("latin-1")) if given else ""
    record = Record(
        id=request_id(headers.get(b"x-request-id", b"").decode("latin-1")),
        method=scope["method"],
        path=_shown(scope.get("raw_path") or b""),
        endpoint=endpoint,
        client=client[0] if client else "",
        traceparent=parent,
        tracestate=_tracestate(scope["headers"]) if parent and b"tracestate" in headers else "",
        on_waiting=on_waiting,
    )
    _current.set(record)
    return record


def _tracestate(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """It may come in several, which are parts of one list."""
    return trace_context.state(b",".join(value for name, value in headers if name == b"tracestate").decode("latin-1"))


def _shown(path: bytes) -> str:
    """As it came, percent signs and all, so that it is one word of a line."""
    text = path[:MAX_PATH_LENGTH].decode("ascii", "backslashreplace")
    return text if text.isprintable() and " " not in text else re.sub(r"[^!-~]", "?", text)
