"""Turns what a wrapper returns or yields into the events of an answer. PURE.

Tool calls are held back until the answer ends. Calls after which the wrapper goes on, with the call's result or with
text, are those of an Agent, which has executed them itself; they are no part of the answer. Nor are calls of tools that
the request doesn't have.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anyserve_worker.pipelines.core.events import Arguments, Event, Finish, Reasoning, Refusal, Text, ToolCall, Usage
from anyserve_worker.pipelines.core.request import Json
from anyserve_worker.pipelines.wrappers.pieces import CallDelta, Piece, read_pieces
from protos import contract

FINISH_REASONS = {
    **dict.fromkeys(("stop", "completed", "end_turn", "eos", "eos_token", "stop_sequence"), contract.FINISH_STOP),
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens"), contract.FINISH_LENGTH),
    **dict.fromkeys(("tool_calls", "tool_use", "function_call"), contract.FINISH_TOOL_CALLS),
    **dict.fromkeys(("content_filter", "safety"), contract.FINISH_CONTENT_FILTER),
}
"""The contract's reason for each reason of a model, in lower case. Any other one is an error, such as `error`."""
TOOL_RESULTS = "tool_call_results"
"""Haystack's reason at the end of the results of an Agent's tools."""


class UnknownFinishReason(ValueError):
    """The model ended for a reason that is none of a complete answer."""


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class _ModelCall:
    """Counts of one component."""

    earlier: Usage | None = None
    """Sum of its calls that have ended."""
    current: Usage | None = None
    ended: bool = False
    """Whether the current call has a finish reason. Its counts may still come."""


class AnswerReader:
    """`tools`: those of the request."""

    def __init__(self, tools: Sequence[Json]) -> None:
        self._tools = {
            name: kind for tool in tools if (name := (tool.get(kind := tool.get("type", "")) or {}).get("name"))
        }
        self._calls: dict[tuple[int, str], _Call] = {}
        self._reason = ""
        self._turn_ended = False
        self._model_calls: dict[str, _ModelCall] = {}

    def read(self, result: Any) -> Iterator[Event]:
        """Raises UnsupportedResult."""
        for piece in read_pieces(result):
            yield from self._read(piece)

    def end(self) -> Iterator[Event]:
        """Events after the last piece. Raises UnknownFinishReason."""
        calls = [call for call in self._calls.values() if call.name in self._tools]
        reason = FINISH_REASONS.get(self._reason.lower()) if self._reason else contract.FINISH_STOP
        if reason is None:
            raise UnknownFinishReason(f"the model ended with the reason {self._reason[:40]!r}")
        for number, call in enumerate(calls):
            yield ToolCall(call.name, call.id)
            if arguments := call.arguments or ("{}" if self._tools[call.name] == "function" else ""):
                yield Arguments(arguments, number)
        if usage := self._usage():
            yield usage
        if reason in (contract.FINISH_STOP, contract.FINISH_TOOL_CALLS):
            reason = contract.FINISH_TOOL_CALLS if calls else contract.FINISH_STOP
        yield Finish(reason)

    def _read(self, piece: Piece) -> Iterator[Event]:
        goes_on = bool(piece.text or piece.reasoning or piece.refusal or piece.calls)
        self._count(piece, goes_on)
        if piece.has_tool_result or piece.text or (goes_on and self._turn_ended):
            self._calls.clear()
        if goes_on:
            self._turn_ended = False
        if piece.reasoning:
            yield Reasoning(piece.reasoning)
        if piece.text:
            yield Text(piece.text)
        if piece.refusal:
            yield Refusal(piece.refusal)
        if self._tools:
            for delta in piece.calls:
                self._hold(delta)
        if piece.finish_reason and piece.finish_reason != TOOL_RESULTS:
            self._reason = piece.finish_reason
            self._turn_ended = True

    def _hold(self, delta: CallDelta) -> None:
        index, own_id = delta.key
        keys = [key for key in self._calls if key[0] == index and (not own_id or key[1] in ("", own_id))]
        key = keys[-1] if keys else delta.key
        call = self._calls.setdefault(key, _Call(delta.id, delta.name))
        call.id = call.id or delta.id
        call.name = call.name or delta.name
        call.arguments += delta.arguments

    def _count(self, piece: Piece, goes_on: bool) -> None:
        call = self._model_calls.setdefault(piece.component, _ModelCall())
        if call.ended and goes_on:
            call.earlier, call.current, call.ended = _sum(call.earlier, call.current), None, False
        # A model that reports counts while it answers reports those so far.
        call.current = piece.usage or call.current
        call.ended = call.ended or bool(piece.finish_reason)

    def _usage(self) -> Usage | None:
        total: Usage | None = None
        for call in self._model_calls.values():
            total = _sum(total, _sum(call.earlier, call.current))
        return total


def _sum(first: Usage | None, second: Usage | None) -> Usage | None:
    if first is None or second is None:
        return first or second
    return Usage(
        first.prompt_tokens + second.prompt_tokens,
        first.completion_tokens + second.completion_tokens,
        _sum_of_reported(first.cached_tokens, second.cached_tokens),
        _sum_of_reported(first.reasoning_tokens, second.reasoning_tokens),
    )


def _sum_of_reported(first: int | None, second: int | None) -> int | None:
    return first if second is None else second + (first or 0)
