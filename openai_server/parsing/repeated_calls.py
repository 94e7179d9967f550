"""Drops a call that repeats the one before it exactly.

PURE. A small model that may call several tools often repeats the same call until its token limit. A call is held back
while its name and its arguments so far are those that the previous call begins with, so that nothing of a repetition is
sent.
"""

import orjson

from openai_server.core.events import CallArguments, CallBegun, Event


class RepeatedCalls:
    def __init__(self) -> None:
        self.found = False
        """Whether a call was a repetition. Nothing that comes after it counts."""
        self._previous: tuple[str, str] | None = None
        """Name and arguments of the call before the current one."""
        self._name = ""
        self._arguments: list[str] = []
        self._held: list[Event] = []
        """The events of the current call, if it may be a repetition."""
        self._n_same = 0
        """Characters of the current call's arguments, as long as it may be a repetition."""

    def filter(self, events: list[Event]) -> list[Event]:
        """The events to pass on."""
        passed: list[Event] = []
        for event in events:
            if isinstance(event, CallArguments):
                self._add(event, passed)
            else:
                passed += self.end()
                if self.found:
                    break
                if isinstance(event, CallBegun):
                    self._begin(event, passed)
                else:
                    passed.append(event)
            if self.found:
                break
        return passed

    def end(self) -> list[Event]:
        """Called at the end of a call. The events that were held back, unless they are a repetition."""
        held, self._held = self._held, []
        if held and self._previous is not None and self._n_same == len(self._previous[1]):
            self.found = True
            return []
        return held

    def _begin(self, event: CallBegun, passed: list[Event]) -> None:
        self._previous = (self._name, "".join(self._arguments)) if self._name else None
        self._name, self._arguments, self._n_same = event.name, [], 0
        if self._previous is not None and self._previous[0] == event.name:
            self._held = [event]
        else:
            passed.append(event)

    def _add(self, event: CallArguments, passed: list[Event]) -> None:
        self._arguments.append(event.text)
        if not self._held or self._previous is None:
            passed.append(event)
            return
        self._held.append(event)
        before = self._previous[1]
        if before.startswith(event.text, self._n_same):
            self._n_same += len(event.text)
            if self._n_same == len(before) and not event.custom and _is_complete(before):
                self.found, self._held = True, []
        else:
            passed += self._held
            self._held = []


def _is_complete(arguments: str) -> bool:
    """Whether the arguments can't go on."""
    try:
        orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return False
    return arguments.endswith("}")
