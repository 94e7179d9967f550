"""What tests of parsers share: texts cut in every way, and what came out of a parser, put together."""

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
    """Fails where events don't follow each other as they must."""
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
    """The whole, character by character, with empty pieces between, and every cut into two."""
    yield [text]
    yield list(text)
    yield [piece for character in text for piece in ("", character)]
    for i in range(len(text) + 1):
        yield [text[:i], text[i:]]


def same_at_every_cut(make: Callable[[], Parser], text: str) -> Answer:
    whole = answer(make(), [text])
    for pieces in cuts(text):
        assert answer(make(), pieces) == whole, pieces
    return whole


def tool(name: str, properties: dict[str, Any] | None = None, *required: str, strict: bool | None = None) -> Tool:
    parameters = None
    if properties is not None:
        parameters = {"type": "object", "properties": properties, "required": list(required)}
    return Tool("function", FunctionDefinition(name, None, parameters, strict))
