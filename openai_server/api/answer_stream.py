"""A streamed answer: turns the backend's rows into events, and events into the bytes of the response. PURE."""

from collections.abc import Sequence
from typing import Protocol

from openai_server.api.stream_writer import StreamWriter
from openai_server.core.errors import APIError
from openai_server.core.events import Content, Event, Finish, TokenLogprobs
from openai_server.core.logprobs import Logprobs
from openai_server.core.rows import ChoiceDecoders, Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.parsing.readers import reader_of


class AnswerSource(Protocol):
    """Reports values of an answer besides its rows, each as far as it has arrived."""

    timings: Timings | None

    def prompt_usage(self) -> PromptUsage | None:
        """The counts of the prompt."""

    def take_progress(self) -> Sequence[Progress]:
        """The progress of the prompt since the last call."""


class AnswerStream:
    """`format` is how the model's text is parsed; None: all of it is content."""

    __slots__ = (
        *("_decoders", "_head", "_is_ready", "_n_choices", "_readers", "_writer", "finish_reasons", "has_begun"),
        *("is_cut_off", "source"),
    )

    def __init__(self, writer: StreamWriter, n_choices: int, format: AnswerFormat | None = None) -> None:
        self._writer = writer
        self.source: AnswerSource | None = None
        self._n_choices = n_choices
        self._is_ready = False
        """Whether the writer has begun."""
        self.has_begun = False
        """Whether `take` has returned events."""
        self.is_cut_off = False
        """Whether all choices have ended, and one of them before the backend ended it."""
        self._head = b""
        """The bytes before the first event, until they are sent with it."""
        self._decoders = ChoiceDecoders(n_choices)
        self._readers = [reader_of(format) for _ in range(n_choices)] if format else None
        self.finish_reasons: list[str] = []
        """Finish reasons of the choices, in the order in which they ended."""

    @property
    def ping(self) -> bytes:
        """The bytes that keep a silent connection open."""
        return self._writer.ping

    def take(self, rows: Sequence[Row]) -> bytes:
        """The bytes for these rows; empty if they complete nothing that can be sent."""
        if not self._is_ready and rows:
            self._begin_once(None)
        data, decoders, writer = b"", self._decoders, self._writer
        is_plain = self._readers is None and writer.writes_text
        for index, token, reason, logprobs in rows:
            text = decoders.text(index, token, reason is not None)
            if reason is not None or logprobs or not is_plain:
                data += self._take(index, text, reason, logprobs)
            elif text:
                data += writer.text(index, text)
        if data and not self.has_begun:
            data, self._head, self.has_begun = self._head + data, b"", True
        return data

    def end(self, usage: Usage | None) -> bytes:
        """The last bytes. They end the choices of a backend that reports no finish reasons."""
        self._begin_once(usage)
        rest = self._head
        for index, reader in enumerate(self._readers or ()):
            rest += self._writer.write(index, reader.read("", ended=True))
        return rest + self._writer.end(usage)

    def failure(self, error: APIError) -> bytes:
        """The last bytes of a stream that failed after its status was sent."""
        return self._head + self._writer.failure(error)

    def _begin_once(self, usage: Usage | None) -> None:
        """`usage`: the counts of the whole answer; None before its end."""
        if self._is_ready:
            return
        self._is_ready = True
        prompt: Usage | PromptUsage | None = usage
        if prompt is None and self.source is not None:
            prompt = self.source.prompt_usage()
        counts = None if prompt is None else Usage(prompt.prompt, 0, prompt.cached)
        self._head = self._writer.begin(self._n_choices, counts)

    def _take(self, index: int, text: str, reason: str | None, logprobs: Logprobs) -> bytes:
        events: list[Event]
        if self._readers is not None:
            events = self._readers[index].read(text, reason)
        else:
            events = [Content(text)] if text or logprobs else []
            if reason is not None:
                events.append(Finish(reason))
        if logprobs and (self._readers is None or not self._readers[index].is_cut_off):
            events.insert(0, TokenLogprobs(logprobs))
        if events and isinstance(finish := events[-1], Finish):
            self.finish_reasons.append(finish.reason)
            if len(self.finish_reasons) == self._n_choices:
                self.is_cut_off = any(reader.is_cut_off for reader in self._readers or ())
        return self._writer.write(index, events) if events else b""
