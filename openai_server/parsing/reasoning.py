"""Reasoning: which tags a model puts around it, and a parser that takes it out of the text.

PURE. Only reasoning at the beginning of an answer is recognized: a later `<think>` is a model that writes about models.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import lru_cache

from openai_server.core.events import Event, Reasoning
from openai_server.parsing.parser import Parser
from openai_server.parsing.reader import SPACE, Reader, Steps, Trimmed


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    begin: str
    end: str
    special_tokens: bool = False
    """They are control tokens, which the backend leaves out of the text by default."""
    ends_as_well: tuple[str, ...] = ()
    """What ends reasoning that is not closed, and belongs to what follows."""
    answer: tuple[str, str] | None = None
    """Tags around what follows, which are left out."""


@dataclass(frozen=True, slots=True)
class ReasoningSpan:
    """The texts between which a model reasons, for counting its tokens. `begin` is empty if it has begun already."""

    begin: str
    ends: tuple[str, ...]


_THINK = ReasoningTags("<think>", "</think>")
# The first whose text is in a template is the one.
_KNOWN: tuple[tuple[str, ReasoningTags], ...] = (
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
        "<|tool_call_begin|>",  # Kimi K2, which at times calls a tool in the middle of a thought
        ReasoningTags("<think>", "</think>", ends_as_well=("<|tool_calls_section_begin|>", "<|tool_call_begin|>")),
    ),
    ("</think>", _THINK),
    ("<think>", _THINK),
    ("<thinking>", ReasoningTags("<thinking>", "</thinking>")),
    ("<reasoning>", ReasoningTags("<reasoning>", "</reasoning>")),
)


@lru_cache(maxsize=64)
def tags_of(template: str) -> ReasoningTags | None:
    """The tags that the source of a chat template mentions."""
    for text, tags in _KNOWN:
        if text in template and (tags.begin in template or tags.end in template):
            return tags
    return None


def starts_inside(prompt: str, tags: ReasoningTags) -> bool:
    """Whether the answer to this prompt begins in the middle of a thought."""
    return prompt.rstrip(SPACE).endswith(tags.begin)


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
    """Reasoning is taken out, the rest is handed to `then`. Whitespace around the tags is in neither of them."""

    def __init__(self, tags: ReasoningTags, then: Parser, starts_inside: bool) -> None:
        self._tags = tags
        self._inside = starts_inside
        super().__init__(then if tags.answer is None else _Unwrapping(tags.answer, then))

    def _read(self) -> Steps[None]:
        reader, tags = self._reader, self._tags
        reader.keep()
        yield from reader.spaces()
        opened = yield from reader.literal(tags.begin)
        before = reader.kept()
        if not opened and not self._inside:
            self._pass_on(before)
            return
        yield from reader.spaces()
        thought = Trimmed(lambda text: self._events.append(Reasoning(text)))
        end = yield from reader.until((tags.end, *tags.ends_as_well), thought.write)
        if not end and (rest := thought.rest()):
            self._events.append(Reasoning(rest))
        yield from reader.spaces()
        if end != tags.end:
            self._pass_on(end)


class _Unwrapping(_Filter):
    """Leaves out the tags around an answer: the first where the text begins, the second where it ends."""

    def __init__(self, tags: tuple[str, str], then: Parser) -> None:
        self._begin, self._end = tags
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
