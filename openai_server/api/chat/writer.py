"""Turns events into the chunks of `/v1/chat/completions`. PURE."""

from collections.abc import Sequence

import orjson

from openai_server.api.chat.answer import Delta
from openai_server.api.chat.logprobs import chat_logprobs
from openai_server.api.chat.message import delta_of
from openai_server.api.chunk_writer import ChunkWriter
from openai_server.core.events import Content, Event, Finish, TokenLogprobs
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage
from openai_server.http.json_response import encode


class ChatWriter(ChunkWriter):
    """Each choice begins with the role; content, reasoning and calls follow, and the finish reason ends it."""

    kind = "chat.completion.chunk"
    _text_begin = b'{"index":%d,"delta":{"content":'
    _text_end = b"}"
    _no_text = b'{"index":0,"delta":{"role":"assistant","content":null},"logprobs":null,"finish_reason":null}'

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        self._pending: list[list[TokenLogprob]] = [[] for _ in range(n_choices)]
        """Log probabilities to send with the next delta of each choice."""
        format = self._options.format
        self._legacy = format is not None and format.legacy
        content = b"null" if format is not None and format.must_call else b'""'
        delta = b'{"role":"assistant","content":%b}' % content
        return b"".join(self._delta(i, delta) for i in range(n_choices))

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        pending, data = self._pending[index], b""
        for event in events:
            if isinstance(event, Content) and not pending:
                data += self.text(index, event.text)
            elif isinstance(event, TokenLogprobs):
                pending += event.tokens
            elif isinstance(event, Finish):
                if pending:
                    data += self._with_pending(index, Delta(content=""))
                data += self._delta(index, b"{}", finish_reason=orjson.dumps(event.reason))
            elif delta := delta_of(event, legacy=self._legacy):
                data += self._with_pending(index, delta)
        return data

    def _with_pending(self, index: int, delta: Delta) -> bytes:
        tokens = self._pending[index]
        written = encode(chat_logprobs(tokens)) if tokens else b"null"
        tokens.clear()
        return self._delta(index, encode(delta), written)

    def _delta(self, index: int, delta: bytes, logprobs: bytes = b"null", finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}'
        return self._event(choice % (index, delta, logprobs, finish_reason))
