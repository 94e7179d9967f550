"""Shared by tests of parsers: cuts of texts, and the events of a parser as one answer."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from openai_server.core.events import CallArguments, CallBegun, Content, Reasoning
from openai_server.core.tools import FunctionDefinition, Tool
from openai_server.parsing.parser import Parser


@dataclass
class Call:
    name: str
    arguments: str
    id: str | None = None


@dataclass
class Answer:
    content: str = ""
    calls: list[Call] = field(default_factory=list)
    reasoning: str = ""

    @property
    def text(self) -> str:
        return self.reasoning + self.content + "".join(call.name + call.arguments for call in self.calls)


def answer(parser: Parser, pieces: Iterable[str]) -> Answer:
    """Parses the pieces and returns the answer. Checks that the events are in a valid order."""
    whole = Answer()
    for event in [*(event for piece in pieces for event in parser.push(piece)), *parser.end()]:
        match event:
            case Content(text):
                assert text
                whole.content += text
            case Reasoning(text):
                assert text
                whole.reasoning += text
            case CallBegun(index, name, id):
                assert index == len(whole.calls)
                assert name
                whole.calls.append(Call(name, "", id))
            case CallArguments(index, text):
                assert text
                assert index == len(whole.calls) - 1
                whole.calls[index].arguments += text
    return whole


def cuts(text: str) -> Iterator[Sequence[str]]:
    """Yields the text whole, by character, with empty pieces in between, and cut into two in every way."""
    yield [text]
    yield list(text)
    yield [piece for character in text for piece in ("", character)]
    for i in range(len(text) + 1):
        yield [text[:i], text[i:]]


def same_at_every_cut(new_parser: Callable[[], Parser], text: str) -> Answer:
    whole = answer(new_parser(), [text])
    for pieces in cuts(text):
        assert answer(new_parser(), pieces) == whole, pieces
    return whole


def tool(name: str, properties: dict[str, Any] | None = None, *required: str, strict: bool | None = None) -> Tool:
    parameters = None
    if properties is not None:
        parameters = {"type": "object", "properties": properties, "required": list(required)}
    return Tool(FunctionDefinition(name, None, parameters, strict))
