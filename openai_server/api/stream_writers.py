"""Events to OpenAI's stream chunks, as server-sent events.

PURE. The types in the `openai` package are the reference of every shape.
"""

from collections.abc import Sequence

import orjson

from openai_server.api import chat_message, logprobs
from openai_server.api.chat_message import JsonObject
from openai_server.api.responses import AnswerIdentity, AnswerOptions, usage
from openai_server.core.events import Content, Event, Finish, TokenLogprobs
from openai_server.core.logprobs import Logprobs, TokenLogprob
from openai_server.core.usage import Usage
from openai_server.http import sse


class StreamWriter:
    """Writes one stream.

    All but the choice itself is the same in every chunk, so it is made once, as bytes. If the client wants the usage,
    each chunk has `"usage": null` and the last one the counts.
    """

    kind: str

    def __init__(self, identity: AnswerIdentity, options: AnswerOptions) -> None:
        head = {"id": identity.id, "object": self.kind, "created": identity.created, "model": identity.model}
        self._head = sse.DATA + orjson.dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' + sse.END if options.include_usage else b"]}" + sse.END
        self._common: JsonObject = head
        self._options = options
        self._text_heads: dict[int, bytes] = {}
        """The event of a choice up to its text, by choice."""
        self._text_tail = self._text_end + b',"logprobs":null,"finish_reason":null}' + self._tail

    _text_begin: bytes
    """A choice from its index, a %d, to its text."""
    _text_end: bytes

    def begin(self, n_choices: int) -> bytes:
        """What comes before the first event of each choice."""
        raise NotImplementedError

    def text(self, index: int, text: str) -> bytes:
        """What `write` makes of content alone: nearly all events are that."""
        head = self._text_heads.get(index)
        if head is None:
            head = self._text_heads[index] = self._head + self._text_begin % index
        return head + orjson.dumps(text) + self._text_tail

    def write(self, index: int, events: Sequence[Event]) -> bytes:
        """The next events of one choice, which belong together."""
        raise NotImplementedError

    def end(self, used: Usage | None) -> bytes:
        if not self._options.include_usage:
            return sse.DONE
        return sse.event({**self._common, "choices": [], "usage": usage(used)}) + sse.DONE

    def _event(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail


class CompletionWriter(StreamWriter):
    """One chunk for events that belong together."""

    kind = "text_completion"
    _text_begin = b'{"index":%d,"text":'
    _text_end = b""

    def begin(self, n_choices: int) -> bytes:
        self._logprobs = [logprobs.CompletionLogprobs() for _ in range(n_choices)]
        return b""

    def text(self, index: int, text: str) -> bytes:
        return self.write(index, [Content(text)]) if self._options.logprobs else super().text(index, text)

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
            % (index, orjson.dumps(text), orjson.dumps(part), orjson.dumps(reason))
        )


class ChatWriter(StreamWriter):
    """Role, then content, reasoning and calls, then the finish reason, for each choice."""

    kind = "chat.completion.chunk"
    _text_begin = b'{"index":%d,"delta":{"content":'
    _text_end = b"}"

    def begin(self, n_choices: int) -> bytes:
        self._pending: list[list[TokenLogprob]] = [[] for _ in range(n_choices)]
        """Log probabilities of each choice that go with its next delta."""
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
                    data += self._with_pending(index, {"content": ""})
                data += self._delta(index, b"{}", finish_reason=orjson.dumps(event.reason))
            elif delta := chat_message.delta(event, legacy=self._legacy):
                data += self._with_pending(index, delta)
        return data

    def _with_pending(self, index: int, delta: JsonObject) -> bytes:
        tokens = self._pending[index]
        written = orjson.dumps(logprobs.chat(tokens)) if tokens else b"null"
        tokens.clear()
        return self._delta(index, orjson.dumps(delta), written)

    def _delta(self, index: int, delta: bytes, logprobs: bytes = b"null", finish_reason: bytes = b"null") -> bytes:
        choice = b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":%b}'
        return self._event(choice % (index, delta, logprobs, finish_reason))
