"""Reading text that comes in pieces, in code that runs straight through.

PURE. A parser is a generator: it reads from a `Reader` with `yield from`, writes to an `Output`, and is suspended
wherever the text so far does not decide what comes next. `StepParser` resumes it with each piece.
"""

import re
from collections.abc import Callable, Generator
from functools import lru_cache
from typing import NamedTuple, Protocol, TypeVar

from openai_server.core.events import CallArguments, CallBegun, Content, Event, Reasoning

T = TypeVar("T")
Steps = Generator[None, None, T]
"""A computation that yields where it needs more text."""
Emit = Callable[[str], None]

SPACE = " \t\r\n"
_SPACES = re.compile(r"[ \t\r\n]+")


class Scanner(Protocol):
    """Finds the end of something in the text by itself."""

    done: bool
    failed: bool

    def push(self, text: str, at: int) -> tuple[int, str]:
        """Reads from `at`; returns up to where it is read, and what to hand out for that."""

    def end(self) -> str:
        """No more text; returns what was held back. Neither `done` nor `failed`: the text could have gone on."""


class Reader:
    """Holds only text that is not read yet. What is read can be kept, in case it has to be taken for something else."""

    def __init__(self) -> None:
        self._text = ""
        self._at = 0
        self._ended = False
        self._kept: list[str] | None = None
        self.ran_out = False
        """The text ended where more of it was wanted: what could not be read is no mistake."""

    def push(self, text: str) -> None:
        self._text = self._text[self._at :] + text
        self._at = 0

    def end(self) -> None:
        self._ended = True

    # ---- What was read

    def keep(self, before: str = "") -> None:
        """From here on, what is read is kept, behind `before`."""
        self._kept = [before]

    def forget(self) -> None:
        self._kept = None

    def kept(self) -> str:
        """What was read since `keep`; "" if it was forgotten."""
        text, self._kept = "".join(self._kept or ()), None
        return text

    def _take(self, to: int) -> str:
        text, self._at = self._text[self._at : to], to
        if self._kept is not None:
            self._kept.append(text)
        return text

    # ---- Reading

    def peek(self) -> Steps[str]:
        """The next character, "" at the end."""
        while self._at == len(self._text):
            if self._ended:
                self.ran_out = True
                return ""
            yield
        return self._text[self._at]

    def literal(self, *literals: str) -> Steps[str]:
        """Reads the longest of `literals` that comes next; "" if none does."""
        found = yield from self.next_of(*literals)
        self._take(self._at + len(found))
        return found

    def next_of(self, *literals: str) -> Steps[str]:
        """The longest of `literals` that comes next, which is not read; "" if none does."""
        longest = max(map(len, literals))
        while True:
            ahead = self._text[self._at : self._at + longest]
            more = any(len(ahead) < len(x) and x.startswith(ahead) for x in literals)
            if not more or self._ended:
                break
            yield
        found = max((x for x in literals if ahead.startswith(x)), key=len, default="")
        self.ran_out |= more and not found
        return found

    def run(self, characters: re.Pattern[str], limit: int) -> Steps[str | None]:
        """Reads all characters that come next and match; None if there are more than `limit`, of which one is read."""
        pieces: list[str] = []
        while True:
            found = characters.match(self._text, self._at)
            if found:
                pieces.append(self._take(min(found.end(), self._at + limit + 1)))
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
            if found := _SPACES.match(self._text, self._at):
                self._take(found.end())
            if self._at < len(self._text) or self._ended:
                return
            yield

    def until(self, markers: tuple[str, ...], emit: Emit, *, drop_beginning: bool = False) -> Steps[str]:
        """Emits the text before the first of `markers`, and reads that marker; returns it, "" at the end.

        No marker may begin another one. `drop_beginning`: where the text ends with the beginning of a marker, that is
        read and not emitted.
        """
        search = _search(markers)
        while True:
            if found := search.anywhere.search(self._text, self._at):
                if found.start() > self._at:
                    emit(self._take(found.start()))
                return self._take(found.end())
            held_back = not self._ended or drop_beginning
            safe = search.may_begin_at(self._text, self._at) if held_back else len(self._text)
            if safe > self._at:
                emit(self._take(safe))
            if self._ended:
                self._take(len(self._text))
                self.ran_out = True
                return ""
            yield

    def scan(self, scanner: Scanner, emit: Emit) -> Steps[bool]:
        """Reads as far as `scanner` goes; whether it came to its end."""
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
        """What is there and not read yet."""
        return self._take(len(self._text))


class _Search(NamedTuple):
    markers: tuple[str, ...]
    anywhere: re.Pattern[str]
    beginning: re.Pattern[str]
    longest: int

    def may_begin_at(self, text: str, at: int) -> int:
        """Where the end of `text` begins that may still become a marker."""
        for found in self.beginning.finditer(text, max(at, len(text) - self.longest + 1)):
            end = text[found.start() :]
            if any(marker.startswith(end) for marker in self.markers):
                return found.start()
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


class Trimmed:
    """Emits text, but whitespace at its end only when more follows."""

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
        """The whitespace that has waited."""
        spaces, self._spaces = "".join(self._spaces), []
        return spaces


class Output:
    """Where a parser puts what it found.

    Whitespace around calls is dropped, so that of content has to wait; only what separates two parts of it is kept.
    """

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._content = Trimmed(self._add_content)
        self._has_content = False
        self._behind_call = False
        self._expected: tuple[str, str | None] | None = None
        self.n_calls = 0

    def take(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def content(self, text: str) -> None:
        if self._behind_call:
            text = text.lstrip(SPACE)
            self._behind_call = not text
        self._content.write(text)

    def reasoning(self, text: str) -> None:
        if text:
            self._add(Reasoning(text))

    def expect(self, name: str, id: str | None = None) -> None:
        """The name of a call is complete: if the text ends before its arguments, it is a call all the same."""
        self._expected = name, id

    def begin(self, name: str, id: str | None = None) -> None:
        if not self._has_content:
            self._content.rest()
        self._behind_call = True
        self._expected = None
        self._events.append(CallBegun(self.n_calls, name, id))
        self.n_calls += 1

    def expect_none(self) -> None:
        self._expected = None

    def cut(self) -> None:
        """The text has ended behind the marker of a call, which begins if it is expected."""
        self._behind_call = True
        if self._expected:
            self.begin(*self._expected)

    @property
    def expects(self) -> bool:
        return self._expected is not None

    @property
    def is_empty(self) -> bool:
        return not (self._has_content or self.n_calls)

    def arguments(self, text: str) -> None:
        """Of the call that began last."""
        if text:
            self._add(CallArguments(self.n_calls - 1, text))

    def end(self) -> None:
        rest = self._content.rest()
        if rest and not self._behind_call:
            self._add(Content(rest))

    def _add_content(self, text: str) -> None:
        self._has_content = True
        self._add(Content(text))

    def _add(self, event: Content | Reasoning | CallArguments) -> None:
        # What one piece of text made is one event. (No call begins between two pieces of arguments of another.)
        last = self._events[-1] if self._events else None
        if isinstance(last, Content | Reasoning | CallArguments) and type(last) is type(event):
            last.text += event.text
        else:
            self._events.append(event)


class StepParser:
    """A parser whose rules are in a generator, which reads up to the end of the text."""

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
        # With the end of the text, the generator returns; before that, it yields.
        next(self._steps, None)
