"""Reads text that arrives in pieces, with sequential code.

PURE. A parser is a generator: it reads from a `Reader` with `yield from`, writes to an `Output`, and is suspended
whenever it needs more text to decide how to continue. `StepParser` resumes it with each piece.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A computation that yields when it needs more text, and returns a T."""
Emit = Callable[[str], None]

SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]+")


class Scanner(Protocol):
    """Reads one element of the text and finds its end."""

    done: bool
    failed: bool

    def push(self, text: str, at: int) -> tuple[int, str]:
        """Reads from index `at`. Returns the index after the text read, and the output for it."""

    def end(self) -> str:
        """Returns the output held back. If the scanner is then neither `done` nor `failed`, the element is
        incomplete."""


class Reader:
    """Holds the text not read yet. It can also keep the text being read, in case that must be reinterpreted."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._kept: list[str] | None = None
        self.ran_out = False
        """Whether a read failed because the text ended, rather than because the text was wrong."""

    def push(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._ended = True

    # ---- Text that was read

    def keep(self, before: str = "") -> None:
        """Starts to keep the text that is read, after `before`."""
        self._kept = [before]

    def forget(self) -> None:
        """Discards the kept text, and stops keeping it."""
        self._kept = None

    def take_kept(self) -> str:
        """Returns the text read since `keep`, and stops keeping it; "" after `forget`."""
        text, self._kept = "".join(self._kept or ()), None
        return text

    def _take(self, to: int) -> str:
        text, self._at = self._text[self._at : to], to
        if self._kept is not None:
            self._kept.append(text)
        return text

    # ---- Reading

    def peek(self) -> Steps[str]:
        """The next character, which is not read; "" at the end."""
        while self._at == len(self._text):
            if self._ended:
                self.ran_out = True
                return ""
            yield
        return self._text[self._at]

    def literal(self, *literals: str) -> Steps[str]:
        """Reads the longest of `literals` that comes next, and returns it; "" if none does."""
        literal = yield from self.next_of(*literals)
        self._take(self._at + len(literal))
        return literal

    def next_of(self, *literals: str) -> Steps[str]:
        """Returns the longest of `literals` that comes next, without reading it; "" if none does."""
        longest = max(map(len, literals))
        while True:
            ahead = self._text[self._at : self._at + longest]
            may_continue = any(len(ahead) < len(x) and x.startswith(ahead) for x in literals)
            if not may_continue or self._ended:
                break
            yield
        literal = max((x for x in literals if ahead.startswith(x)), key=len, default="")
        self.ran_out |= may_continue and not literal
        return literal

    def run(self, characters: re.Pattern[str], limit: int) -> Steps[str | None]:
        """Reads the matching characters that come next. Returns None after `limit` + 1 characters."""
        pieces: list[str] = []
        while True:
            match = characters.match(self._text, self._at)
            if match:
                pieces.append(self._take(min(match.end(), self._at + limit + 1)))
                limit -= len(pieces[-1])
                if limit < 0:
                    return None
            if self._at < len(self._text):
                return "".join(pieces)
            if self._ended:
                self.ran_out = True
                return "".join(pieces)
            yield

    def spaces(self) -> Steps[None]:
        while True:
            if match := _SPACES.match(self._text, self._at):
                self._take(match.end())
            if self._at < len(self._text) or self._ended:
                return
            yield

    def until(self, markers: tuple[str, ...], emit: Emit, *, drop_beginning: bool = False) -> Steps[str]:
        """Emits the text before the first of `markers`, then reads and returns that marker; "" at the end.

        No marker may be a prefix of another. `drop_beginning`: if the text ends with the beginning of a marker, drop
        that beginning instead of emitting it.
        """
        search = _search(markers)
        while True:
            if match := search.anywhere.search(self._text, self._at):
                if match.start() > self._at:
                    emit(self._take(match.start()))
                return self._take(match.end())
            hold_back = not self._ended or drop_beginning
            end = search.may_begin_at(self._text, self._at) if hold_back else len(self._text)
            if end > self._at:
                emit(self._take(end))
            if self._ended:
                self._take(len(self._text))
                self.ran_out = True
                return ""
            yield

    def scan(self, scanner: Scanner, emit: Emit) -> Steps[bool]:
        """Reads the element that `scanner` finds, and emits its output. Returns whether the element was complete."""
        while not (scanner.done or scanner.failed):
            if self._at < len(self._text):
                at, text = scanner.push(self._text, self._at)
                self._take(at)
                if text:
                    emit(text)
            elif self._ended:
                break
            else:
                yield
        if rest := scanner.end():
            emit(rest)
        self.ran_out |= not (scanner.done or scanner.failed)
        return scanner.done

    def rest(self) -> str:
        """Reads and returns all available text."""
        return self._take(len(self._text))


class _Search(NamedTuple):
    markers: tuple[str, ...]
    anywhere: re.Pattern[str]
    beginning: re.Pattern[str]
    longest: int

    def may_begin_at(self, text: str, at: int) -> int:
        """Index of the part at the end of `text` that may become a marker; the length of `text` if there is none."""
        for match in self.beginning.finditer(text, max(at, len(text) - self.longest + 1)):
            end = text[match.start() :]
            if any(marker.startswith(end) for marker in self.markers):
                return match.start()
        return len(text)


@lru_cache(maxsize=256)
def _search(markers: tuple[str, ...]) -> _Search:
    beginnings = "".join(sorted({re.escape(marker[0]) for marker in markers}))
    return _Search(
        markers,
        re.compile("|".join(map(re.escape, markers))),
        re.compile(f"[{beginnings}]"),
        max(map(len, markers)),
    )


class TrimmedWriter:
    """Emits text. Holds back whitespace at the end until more text follows."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._spaces: list[str] = []

    def write(self, text: str) -> None:
        body = text.rstrip(SPACE)
        if body:
            self._emit(self.rest() + body)
        if len(body) < len(text):
            self._spaces.append(text[len(body) :])

    def rest(self) -> str:
        """Returns the whitespace held back, and discards it."""
        spaces, self._spaces = "".join(self._spaces), []
        return spaces


class Output:
    """Collects the events of a parser.

    It drops whitespace around calls, so it holds back whitespace at the end of content. Whitespace between two parts of
    the content is kept.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._content = TrimmedWriter(self._add_content)
        self._has_content = False
        self._after_call = False
        self._expected: tuple[str, str | None] | None = None
        self.n_calls = 0

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def content(self, text: str) -> None:
        if self._after_call:
            text = text.lstrip(SPACE)
            self._after_call = not text
        self._content.write(text)

    def reasoning(self, text: str) -> None:
        if text:
            self._add(Reasoning(text))

    def expect(self, name: str, id: str | None = None) -> None:
        """Notes the complete name of a call. If the text ends before the arguments, it still counts as a call."""
        self._expected = name, id

    def begin(self, name: str, id: str | None = None) -> None:
        if not self._has_content:
            self._content.rest()
        self._after_call = True
        self._expected = None
        self._events.append(CallBegun(self.n_calls, name, id))
        self.n_calls += 1

    def expect_none(self) -> None:
        self._expected = None

    def cut(self) -> None:
        """Called if the text ends after the marker of a call. Begins the call if its name is complete."""
        self._after_call = True
        if self._expected:
            self.begin(*self._expected)

    @property
    def has_expected_call(self) -> bool:
        return self._expected is not None

    @property
    def is_empty(self) -> bool:
        return not (self._has_content or self.n_calls)

    def arguments(self, text: str) -> None:
        """Adds arguments to the last call."""
        if text:
            self._add(CallArguments(self.n_calls - 1, text))

    def end(self) -> None:
        rest = self._content.rest()
        if rest and not self._after_call:
            self._add(Content(rest))

    def _add_content(self, text: str) -> None:
        self._has_content = True
        self._add(Content(text))

    def _add(self, event: Content | Reasoning | CallArguments) -> None:
        # Merges with an event of the same kind. (No call begins between two pieces of arguments of another call.)
        last = self._events[-1] if self._events else None
        if isinstance(last, Content | Reasoning | CallArguments) and type(last) is type(event):
            last.text += event.text
        else:
            self._events.append(event)


class StepParser:
    """A parser that runs a generator, which reads the whole text."""

    def __init__(self, read: Callable[[Reader, Output], Steps[None]]) -> None:
        self._reader = Reader()
        self._output = Output()
        self._steps = read(self._reader, self._output)

    def push(self, text: str) -> list[Event]:
        self._reader.push(text)
        self._advance()
        return self._output.take()

    def end(self) -> list[Event]:
        self._reader.end()
        self._advance()
        self._output.end()
        return self._output.take()

    def _advance(self) -> None:
        # The generator yields until the end of the text, and then returns.
        next(self._steps, None)
