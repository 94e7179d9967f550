"""Reasoning: the tags that a model writes around it, and a parser that separates it from the text.

PURE. Only reasoning at the beginning of an answer is recognized. A later `<think>` counts as content, since a model may
write about such tags.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

from openai_server.core.events import Event, Reasoning
from openai_server.parsing.parser import Parser
from openai_server.parsing.reader import SPACE, Reader, Steps, TrimmedWriter


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    begin: str
    end: str
    special_tokens: bool = False
    """Whether the tags are control tokens, which the backend omits from the text by default."""
    other_ends: tuple[str, ...] = ()
    """Texts that also end reasoning. They are part of the text after it."""
    answer: tuple[str, str] | None = None
    """Tags around the text after the reasoning, which are dropped."""


@dataclass(frozen=True, slots=True)
class ReasoningSpan:
    """Texts around the reasoning, to count its tokens. `begin` is empty if the prompt opens the reasoning."""

    begin: str
    ends: tuple[str, ...]


_THINK_TAGS = ReasoningTags("<think>", "</think>")
# Text in a template → its tags. The first match counts.
_TAGS_BY_TEXT: tuple[tuple[str, ReasoningTags], ...] = (
    ("[THINK]", ReasoningTags("[THINK]", "[/THINK]", special_tokens=True)),
    ("<|START_THINKING|>", ReasoningTags("<|START_THINKING|>", "<|END_THINKING|>", special_tokens=True)),
    ("<seed:think>", ReasoningTags("<seed:think>", "</seed:think>", special_tokens=True)),
    ("<mm:think>", ReasoningTags("<mm:think>", "</mm:think>")),
    ("◁think▷", ReasoningTags("◁think▷", "◁/think▷")),
    ("<|inner_prefix|>", ReasoningTags("<|inner_prefix|>", "<|inner_suffix|>", special_tokens=True)),
    (
        "Here is my thought process:",  # Granite 3.2
        ReasoningTags("Here is my thought process:", "Here is my response:"),
    ),
    (
        "<response>",  # Granite 3.3
        ReasoningTags("<think>", "</think>", answer=("<response>", "</response>")),
    ),
    (
        "[BEGIN FINAL RESPONSE]",  # Apriel
        ReasoningTags("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", answer=("", "[END FINAL RESPONSE]")),
    ),
    (
        "<|tool_call_begin|>",  # Kimi K2, which sometimes calls a tool while it reasons
        ReasoningTags("<think>", "</think>", other_ends=("<|tool_calls_section_begin|>", "<|tool_call_begin|>")),
    ),
    ("</think>", _THINK_TAGS),
    ("<think>", _THINK_TAGS),
    ("<thinking>", ReasoningTags("<thinking>", "</thinking>")),
    ("<reasoning>", ReasoningTags("<reasoning>", "</reasoning>")),
)


@lru_cache(maxsize=64)
def tags_of(template: str) -> ReasoningTags | None:
    """The reasoning tags that the source of a chat template mentions; None if there are none."""
    for text, tags in _TAGS_BY_TEXT:
        if text in template and (tags.begin in template or tags.end in template):
            return tags
    return None


def starts_inside(prompt: str, tags: ReasoningTags) -> bool:
    """Whether the prompt opens the reasoning, so that the answer begins inside it."""
    return prompt.rstrip(SPACE).endswith(tags.begin)


class _Filter(ABC):
    """A parser that reads the first part of the text, and passes the rest to another parser."""

    def __init__(self, next_parser: Parser) -> None:
        self._next_parser = next_parser
        self._reader = Reader()
        self._events: list[Event] = []
        self._steps: Steps[None] | None = self._read()

    @abstractmethod
    def _read(self) -> Steps[None]:
        """Reads the first part. After it returns, all further text goes to the other parser."""

    def push(self, text: str) -> list[Event]:
        if self._steps is None:
            return self._next_parser.push(text)
        self._reader.push(text)
        return self._advance()

    def end(self) -> list[Event]:
        self._reader.end()
        return self._advance() + self._next_parser.end()

    def _advance(self) -> list[Event]:
        if self._steps is not None and next(self._steps, _FINISHED) is _FINISHED:
            self._steps = None
            self._pass_on(self._reader.rest())
        events, self._events = self._events, []
        return events

    def _pass_on(self, text: str) -> None:
        if text:
            self._events += self._next_parser.push(text)


_FINISHED = object()


class ReasoningParser(_Filter):
    """Extracts the reasoning and passes the rest to `next_parser`. Drops whitespace around the tags."""

    def __init__(self, tags: ReasoningTags, next_parser: Parser, starts_inside: bool) -> None:
        self._tags = tags
        self._inside = starts_inside
        super().__init__(next_parser if tags.answer is None else _Unwrapping(tags.answer, next_parser))

    def _read(self) -> Steps[None]:
        reader, tags = self._reader, self._tags
        reader.keep()
        yield from reader.spaces()
        opened = yield from reader.literal(tags.begin)
        before = reader.take_kept()
        if not opened and not self._inside:
            self._pass_on(before)
            return
        yield from reader.spaces()
        thought = TrimmedWriter(lambda text: self._events.append(Reasoning(text)))
        end = yield from reader.until((tags.end, *tags.other_ends), thought.write)
        if not end and (rest := thought.rest()):
            self._events.append(Reasoning(rest))
        yield from reader.spaces()
        if end != tags.end:
            self._pass_on(end)


class _Unwrapping(_Filter):
    """Drops the tags around an answer: the first at the beginning of the text, the second at its end."""

    def __init__(self, tags: tuple[str, str], next_parser: Parser) -> None:
        self._begin, self._end = tags
        super().__init__(next_parser)

    def _read(self) -> Steps[None]:
        reader = self._reader
        reader.keep()
        yield from reader.spaces()
        if self._begin and (yield from reader.literal(self._begin)):
            yield from reader.spaces()
            reader.forget()
        self._pass_on(reader.take_kept())
        while end := (yield from reader.until((self._end,), self._pass_on)):
            reader.keep(end)
            yield from reader.spaces()
            if (yield from reader.peek()):
                self._pass_on(reader.take_kept())
