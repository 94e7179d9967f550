"""Calls as JSON objects after a marker, as in most formats: `{"name": "f", "arguments": {…}}`, or a list of them.

PURE. The parser reads all variants (with or without a list, with other keys, with other fields in between). A format
selects the variant of its grammar.
"""

from collections.abc import Container, Sequence
from dataclasses import dataclass

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat, ignore
from openai_server.parsing.tools.grammar import Rules, literal, marker, repeated

_NAME_KEYS = frozenset({"name", "tool_name", "function"})
_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})


def read_call(reader: Reader, out: Output, names: Container[str] | None = None) -> Steps[bool]:
    """Reads one object. Returns whether it was a complete call.

    The call begins, and the reader forgets the text that it keeps, once both the name and the arguments have arrived.
    An object without arguments is a call too, but if `names` is set, only with one of these names.
    """
    name: str | None = None
    begun = False
    early: list[str] | None = None  # arguments before the name
    if not (yield from reader.literal("{")):
        return False
    yield from reader.spaces()
    separator = yield from reader.literal("}")
    while separator != "}":
        key = yield from json_text.string(reader)
        yield from reader.spaces()
        if key is None or not (yield from reader.literal(":")):
            return False
        yield from reader.spaces()
        if key in _NAME_KEYS and name is None:
            name = yield from json_text.string(reader)
            if not name:
                return False
            if names is None or name in names:
                out.expect(name)
        elif key in _ARGUMENT_KEYS and not begun and early is None:
            early = []
            if name is not None:
                begun = True
                _begin(reader, out, name)
            if not (yield from json_text.arguments(reader, out.arguments if begun else early.append)):
                return False
        elif not (yield from json_text.value(reader, ignore)):
            return False
        if name is not None and early is not None and not begun:
            begun = True
            _begin(reader, out, name)
            out.arguments("".join(early))
        yield from reader.spaces()
        separator = yield from reader.literal(",", "}")
        if not separator:
            return False
        yield from reader.spaces()
    if not begun:
        if name is None or (names is not None and name not in names):
            return False
        _begin(reader, out, name)
        out.arguments("{}")
    return True


def read_calls(
    reader: Reader, out: Output, names: Container[str] | None = None, *, listed: bool = False
) -> Steps[bool]:
    """Reads one object, or several, with or without a list around them. Returns whether all were complete calls.

    `listed`: the opening bracket of the list has been read.
    """
    yield from reader.spaces()
    listed = bool((yield from reader.literal("["))) or listed
    more = True
    while more:
        yield from reader.spaces()
        if not (yield from read_call(reader, out, names)):
            return False
        reader.keep()
        yield from reader.spaces()
        more = bool((yield from reader.literal(",", ";"))) or (yield from reader.peek()) == "{"
    if listed:
        yield from reader.literal("]")
    reader.forget()
    return True


def _begin(reader: Reader, out: Output, name: str) -> None:
    reader.forget()
    out.begin(name)


@dataclass(frozen=True)
class JsonCalls(ToolFormat):
    """A marker before each call, or before a list of calls, and optionally one after it.

    `listed`, `space` and `between` apply to the grammar; the parser accepts all variants.
    """

    name: str
    markers: tuple[str, ...]
    close: str = ""
    special_tokens: bool = False
    ignored_markers: tuple[str, ...] = ()
    listed: bool = False
    space: str = ""
    """Text between the markers and the JSON."""
    between: str = ""
    """Text between two calls."""

    @property
    def closers(self) -> tuple[str, ...]:
        return (self.close,) if self.close else ()

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        return (yield from read_calls(reader, out, listed=opening.endswith("[")))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        call = rules.one_of([_call(rules, tool) for tool in tools])
        close = marker(self.close) if self.close else ""
        space = literal(self.space) if self.space else ""
        if self.listed:
            return f'{space} "[" {repeated(call, literal(", "), several=parallel)} "]" {space} {close}'
        between = f"{literal(self.between) if self.between else ''} {marker(self.markers[0])}"
        return repeated(f"{space} {call} {space} {close}", between, several=parallel)


def _call(rules: Rules, tool: Tool) -> str:
    head = literal(f'{{"name": "{tool.function.name}", "arguments": ')
    return f'{head} {rules.arguments(tool)} "}}"'
