"""Turns events into the stream of `/v1/responses`. PURE."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson
from msgspec.structs import replace

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.answer import ResponseItem, ResponseObject
from openai_server.api.responses.output.output import Output
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.state import INCOMPLETE, finished
from openai_server.api.responses.output.stream_events import Delta, OutputTextDelta, StreamEvent, encoded
from openai_server.api.responses.output.whole import key_of
from openai_server.api.responses.settings import CalledTool, ResponsesRequest, Settings
from openai_server.core.events import Content, Event, Finish
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.parsing.choice_reader import AnswerFormat

_NUMBER = b'"sequence_number":0,'
_NO_TEXT = b'""}' + sse.END


class ResponsesWriter(ResponseStream):
    """Writes one stream. `tools` has the request's tools by the name that the model calls. `clock` gives Unix seconds.
    `may_be_empty`: whether an answer without items gets no empty message.

    Most events are deltas of one part, which differ in their number and text alone. The first one is encoded whole, and
    the others from its bytes.
    """

    def __init__(
        self,
        identity: AnswerIdentity,
        settings: Settings,
        tools: Mapping[str, CalledTool],
        seal: Seal | None,
        clock: Callable[[], float],
        *,
        may_be_empty: bool = False,
    ) -> None:
        super().__init__(identity, settings, clock)
        self._may_be_empty = may_be_empty
        self._output = Output(key_of(identity), tools, seal)
        self._finish_reason: str | None = None
        self._event_type: type[Event] | None = None
        """The events that `_form` is for."""
        self._pieces: list[str] = []
        """The text of the open part, which the writer adds to."""
        self._form = b""
        """A delta of the open part, with %d for its number and %b for its text."""

    @classmethod
    def of(
        cls,
        identity: AnswerIdentity,
        request: ResponsesRequest,
        format: AnswerFormat | None,
        seal: Seal | None,
        clock: Callable[[], float],
    ) -> "ResponsesWriter":
        """The writer of the response to a request. `format`: None if all of the model's text is content."""
        may_be_empty = format is not None and format.must_call
        return cls(identity, request.settings_for(format), request.tools, seal, clock, may_be_empty=may_be_empty)

    def text(self, index: int, text: str) -> bytes:
        if self._event_type is not Content or self._output.pending:
            return self._take(Content(text))
        self._pieces.append(text)
        number = self.n_events
        self.n_events = number + 1
        return self._form % (number, orjson.dumps(text))

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            if type(event) is self._event_type and not self._output.pending:
                text: str = event.text  # type: ignore[union-attr]  # such events have text
                self._pieces.append(text)
                data += self._form % (self.n_events, orjson.dumps(text))
                self.n_events += 1
            elif isinstance(event, Finish):
                self._finish_reason = event.reason
            else:
                data += self._take(event)
        return data

    def _closed(self, used: Usage | None) -> tuple[Iterable[StreamEvent], ResponseObject]:
        reason = self._finish_reason
        events = self._output.end(is_complete=reason not in INCOMPLETE, may_be_empty=self._may_be_empty)
        response = finished(self._identity, self._settings, self._output.items, reason, used, self._clock())
        return events, response

    def _complete_items(self) -> Sequence[ResponseItem]:
        return self._output.items

    def _all_items(self) -> Sequence[ResponseItem]:
        self._output.end(is_complete=False, may_be_empty=True)
        return self._output.items

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
