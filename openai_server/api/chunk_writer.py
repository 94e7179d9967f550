"""Turns events into OpenAI's chunks, as server-sent events: the code that completions and chats share. PURE."""

from typing import Any

import orjson
from msgspec import UNSET, UnsetType

from openai_server.api.answers import AnswerIdentity, AnswerOptions
from openai_server.api.stream_writer import StreamWriter
from openai_server.api.timings import Timings, prompt_progress, timings_of
from openai_server.api.usage import usage
from openai_server.core import timings as core
from openai_server.core.timings import Progress
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.http.json_response import encode


class ChunkWriter(StreamWriter):
    """Writes one stream of chunks.

    Everything but the choice is the same in every chunk, so it is encoded once. If the client requested the usage, each
    chunk has `"usage": null` and the last one has the counts.
    """

    kind: str

    def __init__(self, identity: AnswerIdentity, options: AnswerOptions) -> None:
        head = {"id": identity.id, "object": self.kind, "created": identity.created, "model": identity.model}
        if options.service_tier is not None:
            head["service_tier"] = options.service_tier
        self._head = sse.DATA + orjson.dumps(head)[:-1] + b',"choices":['
        self._common: dict[str, Any] = head
        self._options = options
        self._timings: Timings | UnsetType = UNSET
        self._text_heads: dict[int, bytes] = {}
        """The bytes of an event up to its text, by choice."""
        self._set_tail(b"")

    _text_begin: bytes
    """The bytes of a choice up to its text, with %d for its index."""
    _text_end: bytes
    """The bytes between the text and `logprobs`."""
    _no_text: bytes
    """The bytes of a choice in a chunk without text."""

    def text(self, index: int, text: str) -> bytes:
        head = self._text_heads.get(index)
        if head is None:
            head = self._text_heads[index] = self._head + self._text_begin % index
        return head + orjson.dumps(text) + self._text_tail

    def end(self, used: Usage | None) -> bytes:
        if not self._options.include_usage:
            return sse.DONE
        last = {**self._common, "choices": [], "usage": usage(used)}
        if self._timings is not UNSET:
            last["timings"] = self._timings
        return sse.event(last) + sse.DONE

    def progress(self, progress: Progress) -> bytes:
        return self._head + self._no_text + self._tail_with(b',"prompt_progress":' + encode(prompt_progress(progress)))

    def set_timings(self, timings: core.Timings) -> None:
        self._timings = timings_of(timings)
        self._set_tail(b',"timings":' + encode(self._timings))

    def _set_tail(self, more: bytes) -> None:
        self._tail = self._tail_with(more)
        self._text_tail = self._text_end + b',"logprobs":null,"finish_reason":null}' + self._tail

    def _tail_with(self, more: bytes) -> bytes:
        """The bytes of an event after its choice. `more`: further fields, each after a comma."""
        return b"]" + more + (b',"usage":null}' if self._options.include_usage else b"}") + sse.END

    def _event(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail
