"""Answers and deltas to OpenAI's response objects and stream chunks.

PURE. The types in the `openai` package are the reference of every shape.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from openai_server.api import logprobs
from openai_server.backends.dialects.anyserve.decode import Answer, Choice
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage, total
from openai_server.http import sse
from openai_server.parsing.reading import MessageReader, Reading

Object = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Header:
    """What an answer says beside its choices; `created` is in Unix seconds."""

    id: str
    created: int
    model: str


@dataclass(frozen=True, slots=True)
class Telling:
    """What a client wants to be told, and how the answer is read (None: all text is content)."""

    logprobs: bool = False
    include_usage: bool = False
    """In a stream, as its last chunk."""
    reading: Reading | None = None


def usage(usage: Usage | None) -> Object | None:
    if usage is None:
        return None
    said: Object = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.prompt + usage.completion,
    }
    if usage.cached is not None:
        said["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    if usage.marked is not None:
        said["completion_tokens_details"] = {"reasoning_tokens": usage.marked}
    return said


_META = {
    "n_vocab": "vocab_size",
    "n_ctx_train": "context_length_trained",
    "n_embd": "embedding_length",
    "n_params": "parameter_count",
    "size": "size",
}
_MAX_DIGITS = 18
"""Digits of a number that every JSON parser reads exactly."""
_CAPABILITIES = {"generate": "completion", "embed": "embedding", "rank": "rerank"}


def model(name: str, created: int, tasks: Iterable[str], parameters: Mapping[str, str]) -> Object:
    """More than OpenAI tells has the names of other servers: `max_model_len` is vLLM's, the rest llama-server's.

    What the backend does not tell is not there.
    """
    told: Object = {"id": name, "object": "model", "created": created, "owned_by": "anyserve"}
    numbers = {
        key: int(value)
        for key, value in parameters.items()
        if value.isascii() and value.isdecimal() and len(value) <= _MAX_DIGITS
    }
    if "context_length" in numbers:
        told["max_model_len"] = numbers["context_length"]
    told["capabilities"] = [_CAPABILITIES.get(task, task) for task in tasks]
    if meta := {key: numbers[parameter] for key, parameter in _META.items() if parameter in numbers}:
        told["meta"] = meta
    return told


def models(listed: Iterable[Object]) -> Object:
    return {"object": "list", "data": list(listed)}


# ---- Whole answers. `answers` has one item for each prompt; the choices of prompt k follow those of prompt k - 1.


def completion(header: Header, answers: Sequence[Answer], telling: Telling) -> Object:
    return _whole(
        header,
        "text_completion",
        [
            {
                "index": index,
                "text": choice.text,
                "logprobs": logprobs.CompletionLogprobs().part(choice.logprobs) if telling.logprobs else None,
                "finish_reason": choice.finish_reason,
            }
            for index, choice in enumerate(choice for answer in answers for choice in answer.choices)
        ],
        answers,
    )


def chat_completion(header: Header, answers: Sequence[Answer], telling: Telling) -> Object:
    choices = []
    for index, choice in enumerate(choice for answer in answers for choice in answer.choices):
        said: Object = {"role": "assistant", "content": choice.text, "refusal": None}
        reason = choice.finish_reason
        if telling.reading:
            reader = MessageReader(telling.reading)
            said = reader.message(choice.text, reason)
            reason = reason and reader.finish_reason(reason)
        told = logprobs.chat(choice.logprobs) if telling.logprobs else None
        choices.append({"index": index, "message": said, "logprobs": told, "finish_reason": reason})
    return _whole(header, "chat.completion", choices, answers)


def _whole(header: Header, kind: str, choices: list[Object], answers: Sequence[Answer]) -> Object:
    return {
        "id": header.id,
        "object": kind,
        "created": header.created,
        "model": header.model,
        "choices": choices,
        "usage": usage(total(answer.usage for answer in answers)),
    }


# ---- Streams


class Chunks:
    """Writes the events of one stream.

    All but the choice itself is the same in every chunk, so it is made once, as bytes. If the client asked for usage,
    each chunk says `"usage": null` and the last one what it is.
    """

    kind: str

    def __init__(self, header: Header, telling: Telling) -> None:
        head = {"id": header.id, "object": self.kind, "created": header.created, "model": header.model}
        self._head = sse.DATA + orjson.dumps(head)[:-1] + b',"choices":['
        self._tail = b'],"usage":null}' + sse.END if telling.include_usage else b"]}" + sse.END
        self._header = head
        self._telling = telling
        self._text_heads: dict[int, bytes] = {}
        """Up to the text, by choice."""
        self._text_tail = self._text_end + b',"logprobs":null,"finish_reason":null}' + self._tail

    _text_begin: bytes
    """Of a choice, from its index to its text; with one %d."""
    _text_end: bytes

    def begin(self, choices: int) -> bytes:
        """What comes before the first delta of `choices` choices."""
        raise NotImplementedError

    def delta(self, choice: Choice) -> bytes:
        """The events of one choice that moved."""
        raise NotImplementedError

    def reason(self, choice: Choice) -> str | None:
        """The finish_reason that was told in its last delta."""
        return choice.finish_reason

    def end(self, used: Usage | None) -> bytes:
        if not self._telling.include_usage:
            return sse.DONE
        return sse.event({**self._header, "choices": [], "usage": usage(used)}) + sse.DONE

    def _text(self, choice: Choice) -> bytes:
        """The event of a choice that goes on: nearly all are."""
        head = self._text_heads.get(choice.index)
        if head is None:
            head = self._text_heads[choice.index] = self._head + self._text_begin % choice.index
        return head + orjson.dumps(choice.text) + self._text_tail

    def _event(self, choice: bytes) -> bytes:
        return self._head + choice + self._tail


class CompletionChunks(Chunks):
    kind = "text_completion"
    _text_begin = b'{"index":%d,"text":'
    _text_end = b""

    def begin(self, choices: int) -> bytes:
        self._logprobs = [logprobs.CompletionLogprobs() for _ in range(choices)]
        return b""

    def delta(self, choice: Choice) -> bytes:
        if choice.finish_reason is None and not self._telling.logprobs:
            return self._text(choice)
        told = self._logprobs[choice.index].part(choice.logprobs) if self._telling.logprobs else None
        return self._event(
            b'{"index":%d,"text":%b,"logprobs":%b,"finish_reason":%b}'
            % (choice.index, orjson.dumps(choice.text), orjson.dumps(told), orjson.dumps(choice.finish_reason))
        )


class ChatChunks(Chunks):
    """Role, then content, then finish_reason, for each choice."""

    kind = "chat.completion.chunk"
    _text_begin = b'{"index":%d,"delta":{"content":'
    _text_end = b"}"
    _first_delta = b'{"role":"assistant","content":""}'

    def begin(self, choices: int) -> bytes:
        return b"".join(self._event(self._choice(i, self._first_delta)) for i in range(choices))

    def delta(self, choice: Choice) -> bytes:
        event = b""
        if choice.logprobs:
            event = self._with_logprobs(choice)
        elif choice.text:
            event = self._text(choice)
        if choice.finish_reason is None:
            return event
        return event + self._event(self._choice(choice.index, b"{}", orjson.dumps(choice.finish_reason)))

    def _with_logprobs(self, choice: Choice) -> bytes:
        return self._event(
            b'{"index":%d,"delta":{"content":%b},"logprobs":%b,"finish_reason":null}'
            % (choice.index, orjson.dumps(choice.text), orjson.dumps(logprobs.chat(choice.logprobs)))
        )

    @staticmethod
    def _choice(index: int, delta: bytes, finish_reason: bytes = b"null") -> bytes:
        return b'{"index":%d,"delta":%b,"logprobs":null,"finish_reason":%b}' % (index, delta, finish_reason)


class ReadChatChunks(ChatChunks):
    """The same of answers that have to be read: reasoning and calls are deltas of their own."""

    def __init__(self, header: Header, telling: Telling, reading: Reading) -> None:
        super().__init__(header, telling)
        self._reading = reading
        if reading.must_call:
            self._first_delta = b'{"role":"assistant","content":null}'

    def begin(self, choices: int) -> bytes:
        self._readers = [MessageReader(self._reading) for _ in range(choices)]
        self._untold: list[list[TokenLogprob]] = [[] for _ in range(choices)]
        return super().begin(choices)

    def reason(self, choice: Choice) -> str | None:
        return choice.finish_reason and self._readers[choice.index].finish_reason(choice.finish_reason)

    def delta(self, choice: Choice) -> bytes:
        """Log probabilities go with the first delta that comes behind them."""
        index, reason = choice.index, choice.finish_reason
        reader, untold = self._readers[index], self._untold[index]
        untold += choice.logprobs
        deltas = reader.read(choice.text, ended=reason is not None, reason=reason)
        if reason is not None and untold and not deltas:
            deltas = [{"content": ""}]
        event = self._deltas(index, deltas)
        if reason is not None:
            event += self._event(self._choice(index, b"{}", orjson.dumps(reader.finish_reason(reason))))
        return event

    def end(self, used: Usage | None) -> bytes:
        """A backend that knows no reasons has not said of any choice that it was the end."""
        rest = b"".join(self._deltas(i, reader.read("", ended=True)) for i, reader in enumerate(self._readers))
        return rest + super().end(used)

    def _deltas(self, index: int, deltas: Iterable[Object]) -> bytes:
        untold, events = self._untold[index], b""
        for delta in deltas:
            told = orjson.dumps(logprobs.chat(untold)) if untold else b"null"
            untold.clear()
            events += self._event(
                b'{"index":%d,"delta":%b,"logprobs":%b,"finish_reason":null}' % (index, orjson.dumps(delta), told)
            )
        return events


def chat_chunks(header: Header, telling: Telling) -> ChatChunks:
    return ReadChatChunks(header, telling, telling.reading) if telling.reading else ChatChunks(header, telling)
