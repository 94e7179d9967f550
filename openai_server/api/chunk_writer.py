"""Turns events into OpenAI's chunks, as server-sent events: the code that completions and chats share. PURE."""

from typing import Any

import orjson

from openai_server.api.answers import AnswerIdentity, AnswerOptions
from openai_server.api.stream_writer import StreamWriter
from openai_server.api.usage import usage
from openai_server.core.usage import Usage
from openai_server.http import sse


class ChunkWriter(StreamWriter):
    """Writes one stream of chunks.

    Everything but the choice is the same in every chunk, so it is encoded once. If the client requested the usage, each
    chunk has `"usage": null` and the last one has the counts.
    """

    kind: str

    def __init__(self, identity: AnswerIdentity, options: AnswerOptions) -> None:
        head = {"id": identity.id, "object": self.kind, "created": identity.created, "model": identity.model}
        self._head = sse.DATA + orjson.dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' + sse.END if options.include_usage else b"]}" + sse.END
        self._common: dict[str, Any] = head
        self._options = options
        self._text_heads: dict[int, bytes] = {}
        """The bytes of an event up to its text, by choice."""
        self._text_tail = self._text_end + b',"logprobs":null,"finish_reason":null}' + self._tail

    _text_begin: bytes
    """The bytes of a choice up to its text, with %d for its index."""
    _text_end: bytes
    """The bytes between the text and `logprobs`."""

    def text(self, index: int, text: str) -> bytes:
        head = self._text_heads.get(index)
        if head is None:
            head = self._text_heads[index] = self._head + self._text_begin % index
        return head + orjson.dumps(text) + self._text_tail

    def end(self, used: Usage | None) -> bytes:
        if not self._options.include_usage:
            return sse.DONE
        return sse.event({**self._common, "choices": [], "usage": usage(used)}) + sse.DONE

    def _event(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail
