"""Records the log of a background response. PURE."""

from collections.abc import Callable, Mapping, Sequence

from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.answer import ResponseObject
from openai_server.api.responses.background.event_log import (
    VERSION,
    Completion,
    Failure,
    Head,
    Sealed,
    Tool,
    event_line,
    line,
)
from openai_server.api.responses.output.compaction import CompactionWriter
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import CalledTool, ResponsesRequest
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.errors import APIError
from openai_server.core.events import CallBegun, Event
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat


class Recorder(StreamWriter):
    """Returns records of the log where other writers return events. The writer of such a stream takes all events too:
    it builds the response, and its bytes are dropped.

    `seal`: None leaves the reasoning unsealed; a summary must be sealed. `clock` gives Unix seconds.
    """

    ping = b""

    def __init__(
        self,
        identity: AnswerIdentity,
        request: ResponsesRequest,
        format: AnswerFormat | None,
        seal: Seal | None,
        clock: Callable[[], float],
    ) -> None:
        self.response: ResponseObject | None = None
        """The response at its end; None before it."""
        self._clock = clock
        self._now = 0.0
        self._sealed: list[str] = []
        """Texts that were sealed and are not in the log yet."""
        self._tools: Mapping[str, CalledTool] = request.tools
        self._written_tools: set[str] = set()
        self._has_begun = False
        self._writer: ResponseStream
        recorded = None if seal is None else self._recording(seal)
        if request.compacts:
            assert recorded is not None
            self._writer = CompactionWriter(identity, request.settings, recorded, lambda: self._now)
        else:
            self._writer = ResponsesWriter.of(identity, request, format, recorded, lambda: self._now)
        self._head = _head(request, format, seals=seal is not None)
        self.writes_text = self._writer.writes_text

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        self._has_begun = True
        self._writer.begin(n_choices, prompt)
        return line(self._head)

    def text(self, index: int, text: str) -> bytes:
        self._writer.text(index, text)
        return self._seals() + line(text)

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            self._writer.write(index, (event,))
            if isinstance(event, CallBegun):
                data += self._tool(event.name)
            data += self._seals() + event_line(event)
        return data

    def end(self, used: Usage | None) -> bytes:
        """Raises APIError for an empty summary."""
        self._now = self._clock()
        self._writer.end(used)
        self.response = self._writer.response
        return self._seals() + line(Completion.of(self._now, used))

    def failure(self, error: APIError) -> bytes:
        data = b"" if self._has_begun else line(self._head)
        self._writer.failure(error)
        self.response = self._writer.failed(error)
        return data + line(Failure.of(error))

    # ---- Records that are no events

    def _recording(self, seal: Seal) -> Seal:
        def recorded(text: str) -> str:
            sealed = seal(text)
            self._sealed.append(sealed)
            return sealed

        return recorded

    def _seals(self) -> bytes:
        """The records of the texts that were sealed for the next record."""
        if not self._sealed:
            return b""
        sealed, self._sealed = self._sealed, []
        return b"".join(line(Sealed(text)) for text in sealed)

    def _tool(self, name: str) -> bytes:
        """The record of a tool, before its first call."""
        tool = self._tools.get(name)
        if tool is None or name in self._written_tools or tool == CalledTool("function", name):
            return b""
        self._written_tools.add(name)
        return line(Tool(name, tool.kind, tool.name, tool.namespace))


def _head(request: ResponsesRequest, format: AnswerFormat | None, *, seals: bool) -> Head:
    queued, now = request.settings.tools, request.settings.tools
    if not request.compacts:
        now = request.settings_for(format).tools
    has_changed = now != queued
    return Head(
        VERSION,
        request.compacts,
        format is not None and format.must_call,
        seals,
        queued if has_changed else None,
        now if has_changed else None,
    )
