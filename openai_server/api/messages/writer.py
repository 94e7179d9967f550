"""Turns events into the stream of `/v1/messages`. PURE."""

from collections.abc import Sequence

import orjson
from msgspec import Struct

from openai_server.api.answers import AnswerIdentity
from openai_server.api.messages.answer import (
    BlockDelta,
    BlockStart,
    BlockStop,
    ContentBlock,
    DirectCaller,
    MessageDelta,
    MessageStart,
    MessageStop,
    Ping,
    SignatureDelta,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from openai_server.api.messages.ending import Ending, Signature, delta_usage, message, message_usage, tool_use_id
from openai_server.api.messages.errors import stream_error
from openai_server.api.messages.schema import MessagesTurn
from openai_server.api.stream_writer import StreamWriter
from openai_server.core.errors import APIError
from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning, Refusal
from openai_server.core.sealing import Seal
from openai_server.core.usage import Usage
from openai_server.http import sse
from openai_server.http.json_response import encode


def _event(name: str, payload: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(payload))


def _typed(payload: Struct) -> bytes:
    return _event(str(payload.__struct_config__.tag), payload)


_TEXT, _THINKING, _TOOL = "text", "thinking", "tool_use"
_DELTAS = {
    kind: b'event: content_block_delta\ndata: {"type":"content_block_delta","index":%%d,"delta":{"type":"%b","%b":'
    % (type.encode(), key.encode())
    for kind, type, key in (
        (_TEXT, "text_delta", "text"),
        (_THINKING, "thinking_delta", "thinking"),
        (_TOOL, "input_json_delta", "partial_json"),
    )
}
"""The bytes of a delta up to its text, by kind of block, with %d for the block's index."""
_DELTA_END = b"}}" + sse.END


class MessagesWriter(StreamWriter):
    """Writes the blocks one after the other: each is closed before the next one opens.

    White space before a text block is held back until other text follows, since the API has no blocks of white space.
    """

    ping = _typed(Ping())

    def __init__(self, identity: AnswerIdentity, request: MessagesTurn, seal: Seal | None = None) -> None:
        """`seal` is for reasoning whose text is left out."""
        self._seal = seal
        self._identity = identity
        self._omits_thinking = request.omits_thinking
        self._ending = Ending(request)
        self._kind = ""
        """Kind of the open block; empty: none is open."""
        self._n_blocks = 0
        self._head = b""
        """The bytes of a delta of the open block up to its text."""
        self._space = ""
        """White space held back."""
        self._signature = Signature(seal)

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        assert n_choices == 1
        start = message(self._identity.id, self._identity.model, [], None, message_usage(prompt))
        return _typed(MessageStart(start))

    def text(self, index: int, text: str) -> bytes:
        if self._kind == _TEXT:
            return self._head + orjson.dumps(text) + _DELTA_END
        text = self._space + text
        if text.isspace():
            self._space = text
            return b""
        return self._open(_TEXT, TextBlock("")) + self._head + orjson.dumps(text) + _DELTA_END

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        data = b""
        for event in events:
            match event:
                case Content(text=text):
                    if text:
                        data += self.text(index, text)
                    continue
                case Refusal(text=text):
                    data += self.text(index, text)
                case Reasoning(text=text):
                    data += self._thinking(text)
                    continue
                case CallBegun(name=name, id=id):
                    assert id is not None  # set by ChoiceReader
                    data += self._open(_TOOL, ToolUseBlock(tool_use_id(id), name, {}, DirectCaller()))
                case CallArguments(text=text):
                    data += self._head + orjson.dumps(text) + _DELTA_END
                    continue
            self._ending.note(event)
        return data

    def end(self, used: Usage | None) -> bytes:
        return self._close() + _typed(MessageDelta(self._ending.delta(used), delta_usage(used))) + _typed(MessageStop())

    def failure(self, error: APIError) -> bytes:
        return _event("error", stream_error(error))

    # ---- Blocks

    def _thinking(self, text: str) -> bytes:
        data = b""
        if self._kind != _THINKING:
            data = self._open(_THINKING, ThinkingBlock("", ""))
            self._signature = Signature(self._seal)
        self._signature.add(text)
        return data if self._omits_thinking else data + self._head + orjson.dumps(text) + _DELTA_END

    def _open(self, kind: str, block: ContentBlock) -> bytes:
        closed = self._close()
        index = self._n_blocks
        self._n_blocks += 1
        self._kind, self._head, self._space = kind, _DELTAS[kind] % index, ""
        return closed + _typed(BlockStart(index, block))

    def _close(self) -> bytes:
        if not self._kind:
            return b""
        index, data = self._n_blocks - 1, b""
        if self._kind == _THINKING:
            data = _typed(BlockDelta(index, SignatureDelta(self._signature.text)))
        self._kind = ""
        return data + _typed(BlockStop(index))
