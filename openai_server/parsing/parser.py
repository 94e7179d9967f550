"""What the text of one choice turns out to be, piece by piece: content, reasoning, calls of tools.

PURE. Invariants of every parser:

- What comes out, put together, does not depend on how the text was cut into pieces.
- Markup is never content. From the opening marker of a call to its end, text is part of the call. A text that ends in
  between is a call if it has the whole name, with as much of the arguments as there is; before that, nothing comes out.
- Other text is never lost. The beginning of an opening marker that the text ends with is content, unless a call came
  before it. Text behind a marker that can't be a call any more is content with the marker, while no call has begun.
  (Whitespace directly around markers belongs to the markers.)
- Where the answer must be a call there is no content at all: see `CallsOnly`.
- Held back is only what may still become part of a marker, or of a call whose name is not known yet.
- No text makes a parser raise, and the work is linear in the text.
"""

from typing import Protocol

from openai_server.core.events import Content, Event


class Parser(Protocol):
    def push(self, text: str) -> list[Event]: ...

    def end(self) -> list[Event]:
        """The text is over, because the model ended it or had to stop. Called once, last."""


class CallsOnly:
    """Leaves out content, for an answer that a grammar holds to calls: all that is neither is part of a marker."""

    def __init__(self, parser: Parser) -> None:
        self._parser = parser

    def push(self, text: str) -> list[Event]:
        return [event for event in self._parser.push(text) if not isinstance(event, Content)]

    def end(self) -> list[Event]:
        return [event for event in self._parser.end() if not isinstance(event, Content)]


class PlainParser:
    """All text is content."""

    def push(self, text: str) -> list[Event]:
        return [Content(text)] if text else []

    def end(self) -> list[Event]:
        return []
