"""Puts the pieces of tool calls in order. PURE."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from anyserve_worker.pipelines.core.errors import UpstreamFailed
from anyserve_worker.pipelines.core.events import Arguments, Event, ToolCall


@dataclass(slots=True)
class _Call:
    id: str = ""
    name: str = ""
    number: int = -1
    """Number in the choice; -1: its name hasn't arrived."""
    pending: list[str] = field(default_factory=list)
    """Arguments that arrived before the name."""
    has_arguments: bool = False
    is_custom: bool = False


class ToolCalls:
    """The tool calls of a choice. Their pieces may be interleaved."""

    def __init__(self, choice: int = 0) -> None:
        self._choice = choice
        self._by_key: dict[Any, _Call] = {}
        self._calls: list[_Call] = []
        self._n_begun = 0

    def __bool__(self) -> bool:
        return bool(self._calls)

    def push(self, key: Any, id: Any, name: Any, arguments: Any, *, is_custom: bool = False) -> Iterator[Event]:
        """Yields the events of a piece. `key`: the upstream's number of the call; None: it has none, so that a name
        begins a call. Empty and None mean that the piece has no such value."""
        call = self._find(key if isinstance(key, int | str) else None, _text(id), _text(name))
        call.id = call.id or _text(id)
        call.is_custom = call.is_custom or is_custom
        if _text(name) and not call.name:
            call.name = _text(name)
            call.number = self._n_begun
            self._n_begun += 1
            yield ToolCall(call.name, call.id, self._choice)
            for text in call.pending:
                yield Arguments(text, call.number, self._choice)
            call.pending.clear()
        if text := _arguments(arguments):
            call.has_arguments = True
            if call.name:
                yield Arguments(text, call.number, self._choice)
            else:
                call.pending.append(text)

    def finish(self) -> Iterator[Event]:
        """Completes calls without arguments. Raises UpstreamFailed if a call has no name."""
        for call in self._calls:
            if not call.name:
                raise UpstreamFailed("The upstream's answer has a tool call without a name.")
            if not call.has_arguments and not call.is_custom:
                yield Arguments("{}", call.number, self._choice)

    def _find(self, key: int | str | None, id: str, name: str) -> _Call:
        """The call that a piece belongs to. Some servers number all calls 0, but their ids differ."""
        call = self._by_key.get(key) if key is not None else self._calls[-1] if self._calls else None
        begins = _differs(name, call.name) if call and key is not None else bool(name and call and call.name)
        if call is None or _differs(id, call.id) or begins:
            call = _Call()
            self._calls.append(call)
            if key is not None:
                self._by_key[key] = call
        return call


def _differs(value: str, known: str) -> bool:
    return bool(value and known and value != known)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else str(value) if type(value) is int else ""


def _arguments(value: Any) -> str:
    """Raises UpstreamFailed."""
    if value is None or isinstance(value, str):
        return value or ""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (ValueError, RecursionError):
        raise UpstreamFailed("The upstream's answer has a tool call whose arguments are not JSON.") from None
