"""Reads events that a backend sends in place of the model's text, a JSON object of the contract in each line. PURE.

Nothing is looked for in the texts: the backend has distinguished content, reasoning and calls. Not all APIs can
interleave the arguments of several calls. So what follows a call waits until its arguments are a complete JSON value,
or, where that never happens, until the choice ends.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import orjson

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish, Reasoning, Refusal
from openai_server.core.turn import Turn
from openai_server.parsing.choice_reader import FUNCTION_CALL, TOOL_CALLS, AnswerFormat
from openai_server.parsing.json_text import JsonScanner
from protos import contract


def events_format(turn: Turn, new_id: Callable[[], str]) -> AnswerFormat:
    """The format of the answer to a turn, from a backend that sends events."""
    use = turn.tool_use
    return AnswerFormat(
        None,
        new_id,
        legacy=use is not None and use.legacy,
        names_function=use is not None and use.function_name is not None,
        must_call=use is not None and use.must_call,
        custom_tools=frozenset(tool.name for tool in turn.tools if tool.custom is not None),
        allowed_tools=frozenset() if use is None else turn.allowed_tools,
    )


def text_length(lines: str) -> int:
    """Characters of the texts in events."""
    return sum(len(orjson.loads(line).get("text", "")) for line in lines.split("\n") if line)


_TEXTS: dict[str, Callable[[str], Event]] = {
    contract.EVENT_TEXT: Content,
    contract.EVENT_REASONING: Reasoning,
    contract.EVENT_REFUSAL: Refusal,
}


class _Call:
    """A call that the answer reports."""

    __slots__ = ("_arguments", "custom", "has_arguments", "index", "is_over", "waiting")

    def __init__(self, index: int, *, custom: bool) -> None:
        self.index = index
        self.custom = custom
        self.has_arguments = False
        self.is_over = False
        """Whether nothing more can belong to it. The input of a custom tool doesn't show its end."""
        self.waiting: list[CallArguments] = []
        """Arguments that wait for the call to begin."""
        self._arguments = JsonScanner()

    def add(self, text: str) -> None:
        self.has_arguments = True
        if not self.custom:
            self._arguments.push(text, 0)
            self.is_over = self._arguments.done


class EventReader:
    """Has the methods of a ChoiceReader. The backend's dialect has checked that each line is an event of the choice."""

    is_cut_off = False

    def __init__(self, format: AnswerFormat) -> None:
        self._format = format
        self._line = ""
        """The line that has begun."""
        self._calls: list[_Call | None] = []
        """The backend's calls; None: dropped, since the answer may not have it."""
        self._n_calls = 0
        self._open: _Call | None = None
        """The call that was written last, unless something else followed it."""
        self._held: deque[tuple[Event, _Call | None]] = deque()
        """Texts and calls that wait for the end of the open call. A call has its arguments itself."""
        self._ended = False

    def read(self, text: str, reason: str | None = None, *, ended: bool = False) -> list[Event]:
        """The events of the next piece of text. It is the last one if `reason` is set, or if `ended` is."""
        events: list[Event] = []
        if self._ended:
            return events
        self._ended = ended or reason is not None
        *lines, self._line = (self._line + text).split("\n")
        if self._ended:
            lines.append(self._line)
        for line in lines:
            if line:
                self._take(orjson.loads(line), events)
        if self._ended:
            self._end(events, is_cut_off=reason == contract.FINISH_LENGTH)
        if reason is not None:
            events.append(Finish(self._finish_reason(reason)))
        return events

    def _take(self, event: dict[str, Any], events: list[Event]) -> None:
        kind = event["type"]
        if (new_event := _TEXTS.get(kind)) is not None:
            if event["text"]:
                self._hold_or_add(new_event(event["text"]), None, events)
        elif kind == contract.EVENT_TOOL_CALL:
            self._begin(event["name"], event.get("id"), events)
        elif kind == contract.EVENT_ARGUMENTS:
            number = event.get("call")
            call = self._calls[-1 if number is None else number]
            if call is not None and event["text"]:
                self._take_arguments(CallArguments(call.index, event["text"], custom=call.custom), call, events)

    def _begin(self, name: str, id: str | None, events: list[Event]) -> None:
        allowed = self._format.allowed_tools
        if allowed is not None and name not in allowed:
            self._calls.append(None)
            return
        call = _Call(self._n_calls, custom=name in self._format.custom_tools)
        self._n_calls += 1
        self._calls.append(call)
        self._hold_or_add(CallBegun(call.index, name, id or self._format.new_id(), call.custom), call, events)

    # ---- One call after the other

    def _take_arguments(self, event: CallArguments, call: _Call, events: list[Event]) -> None:
        if call is self._open:
            self._add_arguments(event, call, events)
            self._release(events)
        elif not call.is_over:
            call.waiting.append(event)

    def _add_arguments(self, event: CallArguments, call: _Call, events: list[Event]) -> None:
        if not call.is_over:  # else white space after the arguments
            call.add(event.text)
            events.append(event)

    def _hold_or_add(self, event: Event, call: _Call | None, events: list[Event]) -> None:
        """Adds a text, or the beginning of a call, or holds it until the open call is over."""
        if self._is_open:
            self._held.append((event, call))
        else:
            self._add(event, call, events)

    def _release(self, events: list[Event]) -> None:
        """Adds what was held, up to a call that is not over."""
        while self._held and not self._is_open:
            self._add(*self._held.popleft(), events)

    def _add(self, event: Event, call: _Call | None, events: list[Event]) -> None:
        """Adds a text, or the beginning of a call with its arguments so far."""
        self._open = call
        events.append(event)
        if call is not None:
            for arguments in call.waiting:
                self._add_arguments(arguments, call, events)
            call.waiting.clear()

    @property
    def _is_open(self) -> bool:
        return self._open is not None and not self._open.is_over

    def _end(self, events: list[Event], *, is_cut_off: bool) -> None:
        """Adds all that is left. A function without arguments gets an empty object, unless the answer was cut off."""
        while True:
            call = self._open
            if call is not None and not call.is_over:
                call.is_over = True
                if not (call.has_arguments or call.custom or (is_cut_off and not self._held)):
                    events.append(CallArguments(call.index, "{}"))
            if not self._held:
                return
            self._release(events)

    def _finish_reason(self, reason: str) -> str:
        """The finish reason of the message: a call that was dropped is not one."""
        if reason not in (contract.FINISH_STOP, contract.FINISH_TOOL_CALLS):
            return reason
        if not self._n_calls or self._format.names_function:
            return contract.FINISH_STOP
        return FUNCTION_CALL if self._format.legacy else TOOL_CALLS
