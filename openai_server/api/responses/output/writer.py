"""Turns events into the stream of `/v1/responses`. PURE."""

from collections.abc import Callable, Iterable, Sequence

import orjson
from msgspec.structs import replace

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.output.failure import failure_events
from openai_server.api.responses.output.output import Output
from openai_server.api.responses.output.state import INCOMPLETE, finished, in_progress
from openai_server.api.responses.output.stream_events import (
    Delta,
    OutputTextDelta,
    ResponseCompleted,
    ResponseCreated,
    ResponseIncomplete,
    ResponseInProgress,
    StreamEvent,
    encoded,
)
from openai_server.api.responses.output.whole import key_of
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.errors import APIError
from openai_server.core.events import Content, Event, Finish
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.parsing.choice_reader import AnswerFormat

_NUMBER = b'"sequence_number":0,'
_NO_TEXT = b'""}' + sse.END


class ResponsesWriter(StreamWriter):
    """Writes one stream. `clock` gives Unix seconds.

    Most events are deltas of one part, which differ in their number and text alone. The first one is encoded whole, and
    the others from its bytes.
    """

    def __init__(
        self,
        identity: AnswerIdentity,
        request: ResponsesRequest,
        format: AnswerFormat | None,
        seal: Seal | None,
        clock: Callable[[], float],
    ) -> None:
        self._identity = identity
        self._settings = request.settings_for(format)
        self._may_be_empty = format is not None and format.must_call
        self._clock = clock
        self._output = Output(key_of(identity), request.tools, seal)
        self._n_events = 0
        self._has_begun = False
        self._finish_reason: str | None = None
        self._event_type: type[Event] | None = None
        """The events that `_form` is for."""
        self._pieces: list[str] = []
        """The text of the open part, which the writer adds to."""
        self._form = b""
        """A delta of the open part, with %d for its number and %b for its text."""

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        self._has_begun = True
        response = in_progress(self._identity, self._settings)
        return self._events((ResponseCreated(response=response), ResponseInProgress(response=response)))

    def text(self, index: int, text: str) -> bytes:
        if self._event_type is not Content or self._output.pending:
            return self._take(Content(text))
        self._pieces.append(text)
        number = self._n_events
        self._n_events = number + 1
        return self._form % (number, orjson.dumps(text))

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            if type(event) is self._event_type and not self._output.pending:
                text: str = event.text  # type: ignore[union-attr]  # such events have text
                self._pieces.append(text)
                data += self._form % (self._n_events, orjson.dumps(text))
                self._n_events += 1
            elif isinstance(event, Finish):
                self._finish_reason = event.reason
            else:
                data += self._take(event)
        return data

    def end(self, used: Usage | None) -> bytes:
        reason = self._finish_reason
        is_complete = reason not in INCOMPLETE
        data = self._events(self._output.end(is_complete=is_complete, may_be_empty=self._may_be_empty))
        response = finished(self._identity, self._settings, self._output.items, reason, used, self._clock())
        kind = ResponseCompleted if is_complete else ResponseIncomplete
        return data + self._events((kind(response=response),)) + sse.DONE

    def failure(self, error: APIError) -> bytes:
        """The open item stays open: Codex runs a call when its item is done, and sends the request again after a
        failure."""
        data = b"" if self._has_begun else self.begin(1, None)
        last = failure_events(self._identity, self._settings, self._output.items, error)
        return data + self._events(last) + sse.DONE

    # ---- Events

    def _take(self, event: Event) -> bytes:
        events = self._output.take(event)
        data = self._events(events)
        if events and (len(events) > 1 or type(event) is not self._event_type):
            self._prepare(events[-1], event)
        return data

    def _prepare(self, last: StreamEvent, event: Event) -> None:
        """Prepares the deltas that follow `last`, which was written for `event`."""
        item = self._output.current
        if item is None or not isinstance(last, Delta):
            self._event_type = None
            return
        changes: dict[str, object] = {"sequence_number": 0, "delta": ""}
        if isinstance(last, OutputTextDelta):
            changes["logprobs"] = []
        data = encoded(replace(last, **changes)).replace(b"%", b"%%")
        self._form = data.replace(_NUMBER, b'"sequence_number":%d,', 1).removesuffix(_NO_TEXT) + b"%b}" + sse.END
        self._event_type, self._pieces = type(event), item.pieces

    def _events(self, events: Iterable[StreamEvent]) -> bytes:
        data = b""
        for event in events:
            event.sequence_number = self._n_events
            self._n_events += 1
            data += encoded(event)
        return data
