"""Turns events into the chunks of `/v1/completions`. PURE."""

from collections.abc import Sequence

import orjson

from openai_server.api.chunk_writer import ChunkWriter
from openai_server.api.completions.logprobs import LogprobsWriter
from openai_server.core.events import Content, Event, Finish, TokenLogprobs
from openai_server.core.logprobs import Logprobs
from openai_server.core.usage import Usage
from openai_server.http.json_response import encode


class CompletionWriter(ChunkWriter):
    """Writes one chunk for each call of `write`."""

    kind = "text_completion"
    _text_begin = b'{"index":%d,"text":'
    _text_end = b""
    _no_text = b'{"index":0,"text":"","logprobs":null,"finish_reason":null}'

    def begin(self, n_choices: int, prompt: Usage | None) -> bytes:
        self._logprobs = [LogprobsWriter() for _ in range(n_choices)]
        self.writes_text = not self._options.logprobs
        return b""

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        text, reason = "", None
        tokens: Logprobs = ()
        for event in events:
            match event:
                case Content():
                    text += event.text
                case TokenLogprobs():
                    tokens = event.tokens
                case Finish():
                    reason = event.reason
        part = self._logprobs[index].part(tokens) if self._options.logprobs else None
        return self._event(
            b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}'
            % (index, orjson.dumps(text), encode(part), orjson.dumps(reason))
        )
