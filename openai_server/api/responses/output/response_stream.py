"""The common part of all streams of responses: the numbers of their events, and how they begin and end. PURE."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.answer import ResponseItem, ResponseObject
from openai_server.api.responses.output.failure import error_event, response_error
from openai_server.api.responses.output.first_events import N_BEFORE_RUN, first_events
from openai_server.api.responses.output.state import cancelled, failed
from openai_server.api.responses.output.stream_events import (
    ResponseCompleted,
    ResponseFailed,
    ResponseIncomplete,
    StreamEvent,
    encoded,
)
from openai_server.api.responses.settings import Settings
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.errors import APIError
from openai_server.core.usage import Usage
from openai_server.http import sse


class ResponseStream(StreamWriter):
    """Writes the stream of one response. `clock` gives Unix seconds."""

    def __init__(self, identity: AnswerIdentity, settings: Settings, clock: Callable[[], float]) -> None:
        self._identity = identity
        self._settings = settings
        self._clock = clock
        self.n_events = N_BEFORE_RUN if settings.background else 0
        """Number of the next event."""
        self._has_begun = False
        self.ends_later = False
        """Whether `end` leaves the last event to `last`, which is sent when the response has been stored."""
        self.response: ResponseObject | None = None
        """The response at its end."""

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        self._has_begun = True
        return self._events(first_events(self._identity, self._settings))

    def end(self, used: Usage | None) -> bytes:
        events, self.response = self._closed(used)
        data = self._events(events)
        return data if self.ends_later else data + self.last()

    def last(self) -> bytes:
        """The event with the response at its end. `response` may have been replaced since `end`."""
        assert self.response is not None
        kind = ResponseCompleted if self.response.status == "completed" else ResponseIncomplete
        return self._events((kind(response=self.response),)) + sse.DONE

    def failure(self, error: APIError) -> bytes:
        """The open item stays open: Codex runs a call when its item is done, and sends the request again after a
        failure."""
        data = b"" if self._has_begun else self.begin(1, None)
        return data + self._events((error_event(error), ResponseFailed(response=self.failed(error)))) + sse.DONE

    def failed(self, error: APIError) -> ResponseObject:
        """The response if it fails now."""
        return failed(self._identity, self._settings, self._complete_items(), response_error(error))

    def cancelled(self) -> ResponseObject:
        """The response if it is cancelled now, with what the model has written."""
        return cancelled(self._identity, self._settings, self._all_items())

    @abstractmethod
    def _closed(self, used: Usage | None) -> tuple[Iterable[StreamEvent], ResponseObject]:
        """The events that close the output, and the response. Raises APIError."""

    @abstractmethod
    def _complete_items(self) -> Sequence[ResponseItem]:
        """The items that are complete so far."""

    @abstractmethod
    def _all_items(self) -> Sequence[ResponseItem]:
        """The items so far, with the open one as incomplete. Nothing can be written after that."""

    def _events(self, events: Iterable[StreamEvent]) -> bytes:
        data = b""
        for event in events:
            event.sequence_number = self.n_events
            self.n_events += 1
            data += encoded(event)
        return data
