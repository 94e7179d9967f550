"""The text of one choice to the events of the message that it is. PURE."""

from collections.abc import Callable
from dataclasses import dataclass

from openai_server.core.events import CallArguments, CallBegun, Event, Finish
from openai_server.parsing.parser import Parser
from protos import contract

TOOL_CALLS, FUNCTION_CALL = "tool_calls", "function_call"
"""The finish reason of an answer that calls."""


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an answer is read. `new_id` makes the id of a call that the model gave none."""

    new_parser: Callable[[], Parser]
    new_id: Callable[[], str]
    legacy: bool = False
    """A call is written in the older API's words, where there is at most one."""
    names_function: bool = False
    """The function to call was named: OpenAI says `stop` then, as nothing was decided."""
    must_call: bool = False
    """The answer is a call: without content, it is null."""


class ChoiceReader:
    def __init__(self, format: AnswerFormat) -> None:
        self._format = format
        self._parser = format.new_parser()
        self._n_calls = 0
        self._has_arguments = True
        """Belongs to the last call."""
        self._ended = False

    def read(self, text: str, reason: str | None = None, *, ended: bool = False) -> list[Event]:
        """The events of the next piece of text. It is the last one if it has a finish reason, or has `ended` without:
        not every backend reports one."""
        events: list[Event] = []
        ended = ended or reason is not None
        if not self._ended:
            self._ended = ended
            if text:
                events = self._parser.push(text)
            if ended:
                events += self._parser.end()
            for event in events:
                self._note(event)
            if ended and not self._has_arguments and reason != contract.FINISH_LENGTH:
                # The model wrote none, and was not cut off.
                events.append(CallArguments(self._n_calls - 1, "{}"))
        if reason is not None:
            events.append(Finish(self._finish_reason(reason)))
        return events

    def _note(self, event: Event) -> None:
        if isinstance(event, CallBegun):
            self._n_calls, self._has_arguments = event.index + 1, False
            event.id = event.id or self._format.new_id()
        elif isinstance(event, CallArguments):
            self._has_arguments = True

    def _finish_reason(self, reason: str) -> str:
        """What the end of the text means for the message."""
        if reason != "stop" or not self._n_calls or self._format.names_function:
            return reason
        return FUNCTION_CALL if self._format.legacy else TOOL_CALLS
