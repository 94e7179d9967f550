"""Converts the text of one choice to the events of its message. PURE."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from openai_server.core.events import CallArguments, CallBegun, Event, Finish
from openai_server.parsing.custom_input import CustomInput
from openai_server.parsing.parser import Parser
from openai_server.parsing.repeated_calls import RepeatedCalls
from protos import contract

TOOL_CALLS, FUNCTION_CALL = "tool_calls", "function_call"
"""Finish reasons of an answer with calls, in the current API and the older one."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How to parse an answer. `new_id` creates the id of a call for which the model wrote none."""

    new_parser: Callable[[], Parser] | None
    """None: the text is the backend's events, see event_reader.py."""
    new_id: Callable[[], str]
    legacy: bool = False
    """Whether the response has the older API's form, which has at most one call."""
    names_function: bool = False
    """Whether the request names the function to call. OpenAI's finish reason is `stop` then."""
    must_call: bool = False
    """Whether the answer must be a call. Empty content is then null."""
    custom_tools: frozenset[str] = frozenset()
    """Names of the custom tools."""
    parallel: bool = False
    """Whether the answer may have several calls, which a model may repeat until its token limit, and the backend can
    stream it."""
    allowed_tools: frozenset[str] | None = None
    """Names of the tools that may be called, if the text is events. None: all."""
    strict_tools: frozenset[str] = frozenset()
    """Names of the tools whose schema or definition the backend enforces exactly."""
    stops: tuple[str, ...] = ()
    """Stop strings, if the text of a choice includes the one that ended it; otherwise empty."""


class ChoiceReader:
    """Reads the text of a model."""

    def __init__(self, format: AnswerFormat) -> None:
        assert format.new_parser is not None  # else it has an EventReader
        self._format = format
        self._parser = format.new_parser()
        self._n_calls = 0
        self._has_arguments = True
        """Whether the last call has arguments; True before the first call, and for a call of a custom tool."""
        self._input: CustomInput | None = None
        """Reads the last call; None if its tool is a function."""
        self._repeated = RepeatedCalls()
        self._ended = False

    @property
    def is_cut_off(self) -> bool:
        """Whether the choice ended at a call that repeats the one before it. The text after it doesn't count."""
        return self._repeated.found

    def read(self, text: str, reason: str | None = None, *, ended: bool = False) -> list[Event]:
        """The events of the next piece of text. It is the last piece if `reason` is set, or if `ended` is: not every
        backend reports a finish reason."""
        events: list[Event] = []
        if self._repeated.found:
            return events
        ended = ended or reason is not None
        stop = None
        if reason == contract.FINISH_STOP and self._format.stops:
            text, stop = _without_stop(text, self._format.stops)
        if not self._ended:
            self._ended = ended
            if text:
                self._add(self._parser.push(text), events)
            if ended:
                self._add(self._parser.end(), events)
                self._end_input(events)
            if ended and not self._has_arguments and reason != contract.FINISH_LENGTH:
                # The model finished without writing arguments.
                events.append(CallArguments(self._n_calls - 1, "{}"))
            if self._n_calls:
                events = self._repeated.filter(events)
            if ended and not self._repeated.found:
                events += self._repeated.end()
        if self._repeated.found:
            events.append(Finish(self._finish_reason("stop")))
        elif reason is not None:
            events.append(Finish(self._finish_reason(reason), stop))
        return events

    def _add(self, parsed: list[Event], events: list[Event]) -> None:
        for event in parsed:
            if isinstance(event, CallArguments):
                if self._input is not None:
                    event.text, event.custom = self._input.push(event.text), True
                self._has_arguments = True
                if not event.text:
                    continue
            else:
                if self._input is not None:
                    self._end_input(events)
                if isinstance(event, CallBegun):
                    self._begin(event)
            events.append(event)

    def _begin(self, call: CallBegun) -> None:
        self._n_calls = call.index + 1
        call.id = call.id or self._format.new_id()
        call.custom = self._has_arguments = call.name in self._format.custom_tools
        self._input = CustomInput() if call.custom else None

    def _end_input(self, events: list[Event]) -> None:
        if self._input is not None and (rest := self._input.end()):
            events.append(CallArguments(self._n_calls - 1, rest, custom=True))

    def _finish_reason(self, reason: str) -> str:
        """The finish reason of the message."""
        if reason != "stop" or not self._n_calls or self._format.names_function:
            return reason
        return FUNCTION_CALL if self._format.legacy else TOOL_CALLS


def _without_stop(text: str, stops: Sequence[str]) -> tuple[str, str | None]:
    """The text without the stop string at its end, and that string; None if it ends with none."""
    stop = max((stop for stop in stops if text.endswith(stop)), key=len, default=None)
    return (text, None) if stop is None else (text.removesuffix(stop), stop)
