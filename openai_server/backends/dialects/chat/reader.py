"""Reads the answers of a model that takes chats: events, or text as a model with prompts sends it. PURE.

The text of a row is events of the contract, a JSON object in each line. Those with counts and finish reasons are not
part of it: the reader has the counts, and the row has the reason.
"""

from collections.abc import Sequence
from typing import Any

import orjson

from openai_server.backends.dialects.anyserve.decode import Outputs, StreamReader, no_such_choice
from openai_server.backends.dialects.response_tensors import bad_answer, malformed
from openai_server.core.rows import ChoiceDecoders, Row
from openai_server.core.timings import Progress
from openai_server.core.usage import PromptUsage, Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse

_TEXTS = frozenset({contract.EVENT_TEXT, contract.EVENT_REASONING, contract.EVENT_REFUSAL})
_REASONS = (
    contract.FINISH_STOP,
    contract.FINISH_LENGTH,
    contract.FINISH_TOOL_CALLS,
    contract.FINISH_CONTENT_FILTER,
)


class ChatReader:
    """`derives_stop`: whether a text without finish reasons ends with `stop` where the backend marks the end."""

    timings = None

    def __init__(self, n: int, *, is_unary: bool, derives_stop: bool) -> None:
        self._n = n
        self._is_unary = is_unary
        self._text = StreamReader(n, derives_stop=derives_stop)
        self._decoders = ChoiceDecoders(n)
        self._has_events = self._has_text = False
        self._begun: set[int] = set()
        """Choices with a text."""
        self._unfinished = set(range(n))
        self._n_calls = [0] * n
        self._usage: Usage | None = None

    def read(self, response: ModelInferResponse) -> list[Row]:
        rows = self._text.read(response)
        if any(output.name == contract.EVENTS.name for output in response.outputs):
            self._has_events = True
            events = Outputs(response).elements(contract.EVENTS)
            return [row for element in events for row in self._event(element)]
        self._has_text |= bool(rows)
        self._begun.update(index for index, *_ in rows)
        self._unfinished.difference_update(index for index, _, reason, _ in rows if reason)
        return [self._line(*row) for row in rows]

    def end(self) -> list[Row]:
        if self._has_text and not self._has_events:
            if self._is_unary and len(self._begun) != self._n:
                raise bad_answer(f"sent {len(self._begun)} choices, but {self._n} were requested")
            return self._text.end()
        if not self._unfinished:
            return []
        if not self._text.is_complete:
            raise bad_answer("sent no answer" if self._is_unary and not self._has_events else "ended the answer early")
        return [(index, b"", contract.FINISH_STOP, ()) for index in sorted(self._unfinished)]

    @property
    def is_complete(self) -> bool:
        return self._text.is_complete

    @property
    def prompt_usage(self) -> PromptUsage | None:
        used = self._usage
        return self._text.prompt_usage if used is None else PromptUsage(used.prompt, used.cached)

    @property
    def usage(self) -> Usage | None:
        return self._usage or self._text.usage

    def take_progress(self) -> Sequence[Progress]:
        return ()

    def _line(self, index: int, token: bytes, reason: str | None, *_: Any) -> Row:
        """A row with text, as one with an event."""
        text = self._decoders.text(index, token, reason is not None)
        line = orjson.dumps({"type": contract.EVENT_TEXT, "text": text}) + b"\n" if text else b""
        return index, line, reason, ()

    # ---- Events

    def _event(self, element: bytes) -> list[Row]:
        """The row of an event; none if it adds nothing to a choice."""
        try:
            event = orjson.loads(element)
        except orjson.JSONDecodeError as error:
            raise malformed(f"an event is not JSON ({error})") from None
        kind = event.get("type") if isinstance(event, dict) else None
        if not isinstance(kind, str):
            raise malformed("an event is no object with a type")
        if kind not in contract.EVENT_FIELDS:
            return []  # of a newer server
        if kind == contract.EVENT_USAGE:
            self._count(event)
            return []
        index = event.get("choice")
        index = 0 if index is None else _integer(event, "choice")
        if not 0 <= index < self._n:
            raise no_such_choice(index, self._n)
        if index not in self._unfinished:
            raise bad_answer("sent an event after the end of a choice")
        if kind == contract.EVENT_FINISH:
            reason = _string(event, "reason")
            if reason not in _REASONS:
                raise bad_answer(f"ended the answer for the reason '{reason}'")
            self._unfinished.discard(index)
            return [(index, b"", reason, ())]
        self._check(event, kind, index)
        # Line breaks are white space in JSON. Those in strings are escaped.
        return [(index, element.replace(b"\n", b" ") + b"\n", None, ())]

    def _check(self, event: dict[str, Any], kind: str, index: int) -> None:
        if kind in _TEXTS:
            _string(event, "text")
        elif kind == contract.EVENT_TOOL_CALL:
            if not _string(event, "name"):
                raise malformed("a tool call has no name")
            if event.get("id") is not None:
                _string(event, "id")
            self._n_calls[index] += 1
        elif kind == contract.EVENT_ARGUMENTS:
            _string(event, "text")
            call = 0 if event.get("call") is None else _integer(event, "call")
            if not 0 <= call < self._n_calls[index]:
                raise malformed("arguments belong to no tool call")

    def _count(self, event: dict[str, Any]) -> None:
        prompt, completion = _count_of(event, "prompt_tokens"), _count_of(event, "completion_tokens")
        cached, reasoning = (
            None if event.get(name) is None else _count_of(event, name)
            for name in ("cached_tokens", "reasoning_tokens")
        )
        self._usage = Usage(prompt, completion, cached, reasoning)


def _string(event: dict[str, Any], name: str) -> str:
    value = event.get(name)
    if not isinstance(value, str):
        raise malformed(f"'{name}' of an event of the type '{event['type']}' is no string")
    return value


def _integer(event: dict[str, Any], name: str) -> int:
    value = event.get(name)
    if type(value) is not int:
        raise malformed(f"'{name}' of an event of the type '{event['type']}' is no integer")
    return value


def _count_of(event: dict[str, Any], name: str) -> int:
    value = _integer(event, name)
    if not 0 <= value <= contract.INT32_MAX:
        raise malformed(f"'{name}' of an event of the type '{event['type']}' is no number of tokens")
    return value
