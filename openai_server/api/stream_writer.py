"""The interface of stream writers, which turn the events of an answer into the bytes of an API's stream. PURE."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from openai_server.core.errors import APIError
from openai_server.core.events import Event
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import Usage
from openai_server.http import sse


class StreamWriter(ABC):
    """Writes one stream. The calls come in this order: `begin`, `text` and `write`, and at the end `end` or `failure`.
    A stream that fails before its first row has no `begin`."""

    writes_text = True
    """Whether `text` writes content that comes alone."""
    ping = sse.PING
    """The bytes that keep a silent connection open."""

    @abstractmethod
    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        """The bytes before the first event. `prompt` has the counts of the prompt, without generated tokens; None if
        the backend doesn't report them before the end."""

    @abstractmethod
    def text(self, index: int, text: str) -> bytes:
        """The same as `write` for an event that is only content, as nearly all are; faster."""

    @abstractmethod
    def write(self, index: int, events: Sequence[Event]) -> bytes:
        """The bytes for the next events of one choice, which belong together."""

    @abstractmethod
    def end(self, used: Usage | None) -> bytes:
        """The last bytes. `used`: the token counts; None if the backend doesn't count."""

    def progress(self, progress: Progress) -> bytes:
        """The bytes for a step that read a part of the prompt, before `begin`. Only for requests with
        `Turn.progress`."""
        raise NotImplementedError

    def set_timings(self, timings: Timings) -> None:
        """Sets the times for the next events. Only for requests with `Turn.timings`."""
        raise NotImplementedError

    def failure(self, error: APIError) -> bytes:
        """The last bytes of a stream that failed after its status was sent."""
        return sse.failure(error)
