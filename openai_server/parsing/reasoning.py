"""Reasoning: which markers a model puts around it, and a parser that takes it out of the text.

PURE. Only reasoning at the beginning of an answer is recognized: a later `<think>` is a model that writes about models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

from openai_server.core.events import Event, Reasoning
from openai_server.parsing.parser import Parser
from openai_server.parsing.reader import SPACE, Reader, Steps, Trimmed


@dataclass(frozen=True, slots=True)
class Markers:
    begin: str
    end: str
    special_tokens: bool = False
    """They are control tokens: the worker has to be asked to write such tokens into the text."""
    ends_as_well: tuple[str, ...] = ()
    """What ends reasoning that is not closed, and belongs to what follows."""
    answer: tuple[str, str] | None = None
    """Markers around what follows, which are left out."""


@dataclass(frozen=True, slots=True)
class Marks:
    """Between which texts a model reasons, for who counts the tokens. `begin` is empty if it has begun already."""

    begin: str
    ends: tuple[str, ...]


_THINK = Markers("<think>", "</think>")
# The first whose text is in a template is the one.
_KNOWN: tuple[tuple[str, Markers], ...] = (
    ("[THINK]", Markers("[THINK]", "[/THINK]", special_tokens=True)),
    ("<|START_THINKING|>", Markers("<|START_THINKING|>", "<|END_THINKING|>", special_tokens=True)),
    ("<seed:think>", Markers("<seed:think>", "</seed:think>", special_tokens=True)),
    ("<mm:think>", Markers("<mm:think>", "</mm:think>")),
    ("◁think▷", Markers("◁think▷", "◁/think▷")),
    ("<|inner_prefix|>", Markers("<|inner_prefix|>", "<|inner_suffix|>", special_tokens=True)),
    (
        "Here is my thought process:",  # Granite 3.2
        Markers("Here is my thought process:", "Here is my response:"),
    ),
    (
        "<response>",  # Granite 3.3
        Markers("<think>", "</think>", answer=("<response>", "</response>")),
    ),
    (
        "[BEGIN FINAL RESPONSE]",  # Apriel
        Markers("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", answer=("", "[END FINAL RESPONSE]")),
    ),
    (
        "<|tool_call_begin|>",  # Kimi K2, which at times calls a tool in the middle of a thought
        Markers("<think>", "</think>", ends_as_well=("<|tool_calls_section_begin|>", "<|tool_call_begin|>")),
    ),
    ("</think>", _THINK),
    ("<think>", _THINK),
    ("<thinking>", Markers("<thinking>", "</thinking>")),
    ("<reasoning>", Markers("<reasoning>", "</reasoning>")),
)


@lru_cache(maxsize=64)
def markers_of(template: str) -> Markers | None:
    """The markers that the source of a chat template speaks of."""
    for text, markers in _KNOWN:
        if text in template and (markers.begin in template or markers.end in template):
            return markers
    return None


def starts_inside(prompt: str, markers: Markers) -> bool:
    """Whether the answer to this prompt begins in the middle of a thought."""
    return prompt.rstrip(SPACE).endswith(markers.begin)


class _Filter(ABC):
    """A parser that reads a part of the text, and hands the rest to another one."""

    def __init__(self, then: Parser) -> None:
        self._then = then
        self._reader = Reader()
        self._events: list[Event] = []
        self._steps: Steps[None] | None = self._read()

    @abstractmethod
    def _read(self) -> Steps[None]:
        """Returns where all that comes is for the other parser."""

    def push(self, text: str) -> list[Event]:
        if self._steps is None:
            return self._then.push(text)
        self._reader.push(text)
        return self._advance()

    def end(self) -> list[Event]:
        self._reader.end()
        return self._advance() + self._then.end()

    def _advance(self) -> list[Event]:
        if self._steps is not None and next(self._steps, _OVER) is _OVER:
            self._steps = None
            self._pass_on(self._reader.rest())
        events, self._events = self._events, []
        return events

    def _pass_on(self, text: str) -> None:
        if text:
            self._events += self._then.push(text)


_OVER = object()


class ReasoningParser(_Filter):
    """Reasoning is taken out, the rest is handed to `then`. Whitespace around the markers is in neither of them."""

    def __init__(self, markers: Markers, then: Parser, starts_inside: bool) -> None:
        self._markers = markers
        self._inside = starts_inside
        super().__init__(then if markers.answer is None else _Unwrapping(markers.answer, then))

    def _read(self) -> Steps[None]:
        reader, markers = self._reader, self._markers
        reader.keep()
        yield from reader.spaces()
        opened = yield from reader.literal(markers.begin)
        before = reader.kept()
        if not opened and not self._inside:
            self._pass_on(before)
            return
        yield from reader.spaces()
        thought = Trimmed(lambda text: self._events.append(Reasoning(text)))
        end = yield from reader.until((markers.end, *markers.ends_as_well), thought.write)
        if not end and (rest := thought.rest()):
            self._events.append(Reasoning(rest))
        yield from reader.spaces()
        if end != markers.end:
            self._pass_on(end)


class _Unwrapping(_Filter):
    """Leaves out the markers around an answer: the first where the text begins, the second where it ends."""

    def __init__(self, markers: tuple[str, str], then: Parser) -> None:
        self._begin, self._end = markers
        super().__init__(then)

    def _read(self) -> Steps[None]:
        reader = self._reader
        reader.keep()
        yield from reader.spaces()
        if self._begin and (yield from reader.literal(self._begin)):
            yield from reader.spaces()
            reader.forget()
        self._pass_on(reader.kept())
        while end := (yield from reader.until((self._end,), self._pass_on)):
            reader.keep(end)
            yield from reader.spaces()
            if (yield from reader.peek()):
                self._pass_on(reader.kept())
