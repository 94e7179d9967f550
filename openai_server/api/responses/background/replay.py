"""Renders the stream of a background response from its log: the same bytes on any replica, at any time. PURE."""

from collections import deque
from collections.abc import Iterable, Iterator

import orjson
from msgspec import convert
from msgspec.structs import replace

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.background.event_log import (
    VERSION,
    Completion,
    Entry,
    Failure,
    Head,
    Sealed,
    Tool,
)
from openai_server.api.responses.output.compaction import CompactionWriter
from openai_server.api.responses.output.failure import error_event
from openai_server.api.responses.output.first_events import N_BEFORE_RUN, queued_events
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.stream_events import encoded
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import CalledTool, Settings
from openai_server.core.errors import APIError
from openai_server.core.events import Content, Event
from openai_server.http import sse

BEFORE_FIRST = -1
"""`starting_after` of a stream from its beginning."""
_UNREADABLE = APIError(500, "A newer version of this server generated the response: this one can't read its events.")


def settings_of(body: bytes) -> Settings:
    """The settings that a stored response object repeats."""
    fields = orjson.loads(body)
    if (conversation := fields.get("conversation")) is not None:
        fields["conversation"] = conversation["id"]
    return convert(fields, Settings)


class Replay:
    """The stream of one attempt, without `[DONE]`. Events up to the number `after` are left out."""

    def __init__(self, identity: AnswerIdentity, settings: Settings, *, after: int) -> None:
        self.is_over = False
        """Whether the last event has been rendered."""
        self._identity = identity
        self._settings = settings
        self._after = after
        self._is_open = False
        """Whether the events before the run have been rendered."""
        self._writer: ResponseStream | None = None
        self._tools: dict[str, CalledTool] = {}
        self._sealed: deque[str] = deque()
        self._now = 0.0

    @property
    def n_events(self) -> int:
        """Number of the next event."""
        if self._writer is not None:
            return self._writer.n_events
        return N_BEFORE_RUN if self._is_open else 0

    @property
    def last(self) -> int:
        """Number of the last event that the client has."""
        return max(self._after, self.n_events - 1)

    @property
    def has_output(self) -> bool:
        """Whether an event after `response.in_progress` has been rendered or left out."""
        return self.n_events > N_BEFORE_RUN + 1

    def wait(self) -> bytes:
        """The events of a response that no runner has begun."""
        return self._opened(self._settings)

    def take(self, entries: Iterable[Entry]) -> bytes:
        """The events for the next records of the log."""
        return b"".join(self._rendered(entries))

    def fail(self, error: APIError) -> bytes:
        """The last events of a response whose runner ended without writing them."""
        opened = self.wait()
        writer = self._writer or self._begin(Head(VERSION, False, False, False))
        self.is_over = True
        return opened + self._cut(writer.n_events, writer.failure(error))

    def lose(self, error: APIError) -> bytes:
        """The event after which there are no more, since the response can't be read any longer. It has the number of
        the last event, so that a client that resumes after it on another replica misses none."""
        event = error_event(error)
        event.sequence_number = max(0, self.last)
        return encoded(event)

    # ---- Steps

    def _rendered(self, entries: Iterable[Entry]) -> Iterator[bytes]:
        for entry in entries:
            if self.is_over:
                return
            if isinstance(entry, Head):
                yield self._opened(self._settings_with(entry.queued_tools))
                if entry.version > VERSION:
                    yield self.fail(_UNREADABLE)
                else:
                    yield self._cut(N_BEFORE_RUN, self._begin(entry).begin(1, None))
                continue
            writer = self._writer
            assert writer is not None  # the head is the first record
            number = writer.n_events
            match entry:
                case Content(text):
                    data = writer.text(0, text)
                    yield data if number > self._after else self._cut(number, data)
                case Tool(flat_name=flat_name, kind=kind, name=name, namespace=namespace):
                    self._tools[flat_name] = CalledTool("custom" if kind == "custom" else "function", name, namespace)
                case Sealed(text=text):
                    self._sealed.append(text)
                case Completion(at=at):
                    self._now = at
                    self.is_over = True
                    yield self._cut(number, writer.end(entry.used))
                case Failure(error=error):
                    self.is_over = True
                    yield self._cut(number, writer.failure(error))
                case _:
                    event: Event = entry
                    yield self._cut(number, writer.write(0, (event,)))

    def _begin(self, head: Head) -> ResponseStream:
        settings = self._settings_with(head.tools)
        seal = self._next_sealed if head.seals else None
        if head.compacts:
            self._writer = CompactionWriter(self._identity, settings, self._next_sealed, lambda: self._now)
        else:
            self._writer = ResponsesWriter(
                *(self._identity, settings, self._tools, seal),
                lambda: self._now,
                may_be_empty=head.may_be_empty,
            )
        return self._writer

    def _next_sealed(self, _: str) -> str:
        return self._sealed.popleft()

    def _settings_with(self, tools: object) -> Settings:
        return self._settings if tools is None else replace(self._settings, tools=tools)

    def _opened(self, settings: Settings) -> bytes:
        if self._is_open:
            return b""
        self._is_open = True
        return self._cut(0, b"".join(map(encoded, queued_events(self._identity, settings))))

    def _cut(self, number: int, data: bytes) -> bytes:
        """The events of `data` that the client lacks. The first one has this number."""
        if self.is_over:
            data = data.removesuffix(sse.DONE)
        n_left_out = self._after + 1 - number
        if n_left_out <= 0 or not data:
            return data
        return sse.END.join(data.split(sse.END)[n_left_out:])
