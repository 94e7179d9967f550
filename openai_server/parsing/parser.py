"""Parsers, which split the text of one choice into content, reasoning and tool calls, piece by piece.

PURE. Invariants of every parser:

- The joined output doesn't depend on how the text was split into pieces.
- Markup is never content. From the opening marker of a call to its end, text is part of the call. If the text ends in
  between, it is a call if its name is complete, with the arguments so far; otherwise it produces nothing.
- Other text is never lost. If the text ends with the beginning of an opening marker, that beginning is content, unless
  a call came before it. Text after a marker that can no longer become a call is content, including the marker, as long
  as no call has begun. (Whitespace directly around markers belongs to the markers.)
- An answer that must be a call has no content at all: see `CallsOnly`.
- A parser holds back only text that may become part of a marker, or of a call whose name is incomplete.
- No text makes a parser raise, and its work is linear in the length of the text.
"""

from collections.abc import Set
from typing import Protocol

from openai_server.core.events import CallArguments, CallBegun, Content, Event


class Parser(Protocol):
    def push(self, text: str) -> list[Event]: ...

    def end(self) -> list[Event]:
        """The last events. Called once, after the last piece of text."""


class CallsOnly:
    """Drops content, for an answer that a grammar restricts to calls: its remaining text is part of markers."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def push(self, text: str) -> list[Event]:
        return [event for event in self._parser.push(text) if not isinstance(event, Content)]

    def end(self) -> list[Event]:
        return [event for event in self._parser.end() if not isinstance(event, Content)]


class AllowedCalls:
    """Drops calls of other tools than the allowed ones. Their text is never content."""

    def __init__(self, parser: Parser, allowed: Set[str]) -> None:
        self._parser = parser
        self._allowed = allowed
        self._n_calls = 0
        self._drops = False
        """Whether the last call is dropped."""

    def push(self, text: str) -> list[Event]:
        return self._kept(self._parser.push(text))

    def end(self) -> list[Event]:
        return self._kept(self._parser.end())

    def _kept(self, events: list[Event]) -> list[Event]:
        kept: list[Event] = []
        for event in events:
            if isinstance(event, CallBegun):
                self._drops = event.name not in self._allowed
                self._n_calls += not self._drops
            if isinstance(event, CallBegun | CallArguments):
                if self._drops:
                    continue
                event.index = self._n_calls - 1
            kept.append(event)
        return kept


class PlainParser:
    """Treats all text as content."""

    def push(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def end(self) -> list[Event]:
        return []
