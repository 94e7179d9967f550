"""Python calls, `[f(x=1), g(y="a")]`, and LFM2's format, which encloses them in control tokens.

PURE. Values are those of JSON, in JSON's or Python's notation.
"""

import re
from collections.abc import Container, Sequence

import orjson

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools import schema
from openai_server.parsing.tools.format import ToolFormat, read_name
from openai_server.parsing.tools.grammar import Rules, literal, marker, repeated

_KEY = re.compile(r"[a-zA-Z0-9_]+")
_MAX_KEY = 512
_ANY_KEY = "/[a-zA-Z_][a-zA-Z0-9_]{0,63}/"


def read_python_calls(reader: Reader, out: Output, names: Container[str] | None = None) -> Steps[bool]:
    """Reads a list of calls. Returns whether all were complete. If `names` is set, a call that is cut off before its
    arguments counts only with one of these names."""
    if not (yield from reader.literal("[")):
        return False
    more = True
    while more:
        yield from reader.spaces()
        if not (yield from _read_call(reader, out, names)):
            return False
        reader.keep()
        yield from reader.spaces()
        more = bool((yield from reader.literal(",")))
    yield from reader.literal("]")
    reader.forget()
    return True


def _read_call(reader: Reader, out: Output, names: Container[str] | None) -> Steps[bool]:
    """Reads a call. Returns whether it was complete. It begins with its first argument or the closing bracket."""
    name = yield from read_name(reader)
    if not name or not (yield from reader.literal("(")):
        return False
    if names is None or name in names:
        out.expect(name)
    begun = False
    while True:
        yield from reader.spaces()
        ended = yield from reader.literal(")")
        key = None if ended else (yield from reader.run(_KEY, _MAX_KEY))
        if not ended:
            yield from reader.spaces()
            if not key or not (yield from reader.literal("=")):
                return False
            yield from reader.spaces()
        reader.forget()
        if not begun:
            out.begin(name)
            out.arguments("{")
        if ended:
            out.arguments("}")
            return True
        out.arguments(f"{', ' if begun else ''}{orjson.dumps(key).decode()}: ")
        begun = True
        if not (yield from json_text.value(reader, out.arguments)):
            return False
        reader.keep()
        yield from reader.spaces()
        separator = yield from reader.literal(",", ")")
        if not separator:
            return False
        if separator == ")":
            reader.forget()
            out.arguments("}")
            return True


def python_calls(rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
    """The grammar of a list of calls."""
    calls = rules.one_of([_call(rules, tool) for tool in tools])
    return f'"[" {repeated(calls, literal(", "), several=parallel)} "]"'


def _call(rules: Rules, tool: Tool) -> str:
    rules.begin(tool)
    parameters = schema.closed_parameters(tool.function)
    exactly, required = bool(tool.function.strict), schema.required(parameters)
    arguments = []
    for key, value in schema.properties(parameters).items():
        if tool.custom is not None:
            json = rules.input(tool)
        else:
            json = rules.json(schema.with_definitions(value, parameters), exactly=exactly)
        arguments.append((rules.rule(f"{literal(f'{key}=')} {json}"), key in required))
    body = rules.sequence(arguments, ", ")
    if not arguments and not schema.has_no_arguments(parameters):
        any_argument = rules.rule(f'{_ANY_KEY} "=" {rules.json({}, exactly=False)}')
        body = f"({repeated(any_argument, literal(', '), several=True)})?"
    return f"{literal(tool.function.name + '(')} {body} {literal(')')}"


class Lfm2(ToolFormat):
    name = "lfm2"
    arguments = "values"
    special_tokens = True
    markers = ("<|tool_call_start|>",)
    ignored_markers = ("<|tool_call_end|>",)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        yield from reader.spaces()
        return (yield from read_python_calls(reader, out))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return f"{python_calls(rules, tools, parallel)} {marker(self.ignored_markers[0])}"


LFM2 = Lfm2()
