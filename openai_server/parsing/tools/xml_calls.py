"""Calls with one element per argument, like XML but without its escapes.

PURE. Models and their formats:

    Qwen3-Coder   <tool_call>\\n<function=f>\\n<parameter=x>\\n1\\n</parameter>\\n</function>\\n</tool_call>
    Seed-OSS      <seed:tool_call>\\n<function=f>\\n<parameter=x>1</parameter>\\n</function>\\n</seed:tool_call>
    MiniMax M2    <minimax:tool_call>\\n<invoke name="f">\\n<parameter name="x">1</parameter>\\n</invoke>\\n
                  </minimax:tool_call>
    DeepSeek V3.2 <｜DSML｜function_calls>\\n<｜DSML｜invoke name="f">\\n
                  <｜DSML｜parameter name="x" string="false">1</｜DSML｜parameter>\\n</｜DSML｜invoke>\\n
                  </｜DSML｜function_calls>
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai_server.core.tools import INPUT, Tool
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools import schema
from openai_server.parsing.tools.arguments import Elements, Key, parameters_of
from openai_server.parsing.tools.format import ArgumentStyle, ToolFormat, read_name
from openai_server.parsing.tools.grammar import NAME, Rules, free_text, literal, repeated

_KEY = re.compile(r"[^<>\"\n]+")
_MAX_KEY = 512
_LINE = literal("\n")


@dataclass(frozen=True)
class Tags:
    """Texts around the name of a function, around each key, and around each value."""

    call: tuple[str, str]
    call_end: str
    key: str
    value_begin: tuple[str, ...]
    """Text between a key and its value: one for all values, or one for strings and one for other values."""
    value_end: str
    on_lines: bool = False
    """Whether a value is on separate lines; the line breaks around it are not part of it."""

    @property
    def value_ends(self) -> tuple[str, ...]:
        return (f"\n{self.value_end}", self.value_end) if self.on_lines else (self.value_end,)

    @property
    def line(self) -> str:
        """Text around a value: a grammar requires it, a reader accepts it."""
        return "\n" if self.on_lines else ""


@dataclass(frozen=True)
class XmlCalls(ToolFormat):
    """The first of `markers` and `close` enclose each call, or all calls if `together`."""

    name: str
    markers: tuple[str, ...]
    close: str
    tags: Tags
    special_tokens: bool = False
    together: bool = False
    arguments: ArgumentStyle = "texts"

    @property
    def closers(self) -> tuple[str, ...]:
        return (self.close,)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        parameters, tags = parameters_of(tools), self.tags
        elements = Elements(tags.key, (tags.call_end, self.close), self._read_key, tags.value_ends, tags.line)
        open, close = tags.call
        more = True
        while more:
            yield from reader.spaces()
            if opening != open and not (yield from reader.literal(open)):
                return False
            name = yield from read_name(reader)
            if not name or not (yield from reader.literal(close)):
                return False
            out.expect(name)
            if not (yield from elements.read(reader, out, name, parameters.get(name))):
                return False
            reader.forget()
            yield from reader.spaces()
            more = not (yield from reader.next_of(self.close)) and bool((yield from reader.next_of(open)))
            opening = ""
        return True

    def _read_key(self, reader: Reader) -> Steps[Key | None]:
        begins = self.tags.value_begin
        key = yield from reader.run(_KEY, _MAX_KEY)
        begin = yield from reader.literal(*begins)
        return Key(key, begin == begins[0] if len(begins) > 1 else None) if key and begin else None

    # ---- Grammar

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        call = f"{rules.one_of([self._call(rules, tool) for tool in tools])} {_LINE}"
        if self.together:
            return f"{_LINE} {repeated(call, '', several=parallel)} {literal(self.close)}"
        enclosed = f"{_LINE} {call} {literal(self.close)}"
        return repeated(enclosed, literal(f"\n{self.markers[0]}"), several=parallel)

    def _call(self, rules: Rules, tool: Tool) -> str:
        rules.begin(tool)
        tags, parameters = self.tags, schema.closed_parameters(tool.function)
        head = literal(f"{tags.call[0]}{tool.function.name}{tags.call[1]}\n")
        exactly, required = bool(tool.function.strict), schema.required(parameters)
        elements = [
            (_element(rules, tags, key, value, parameters, exactly), key in required)
            for key, value in schema.properties(parameters).items()
        ]
        if tool.custom is not None:
            begin, end = tags.value_begin[0] + tags.line, f"{tags.line}{tags.value_end}\n"
            elements = [(f"{literal(tags.key + INPUT + begin)} {rules.input_up_to(tool, end, tags.value_end)}", True)]
        takes_any = not elements and not schema.has_no_arguments(parameters)
        body = f"({_any_element(rules, tags)})*" if takes_any else rules.sequence(elements, "")
        return f"{head} {body} {literal(tags.call_end)}"


def _element(rules: Rules, tags: Tags, key: str, value: object, root: Mapping[str, Any], exactly: bool) -> str:
    """The grammar of one argument with its tags."""
    value = schema.followed(value, root)
    types = schema.types(value, root)
    head, end = f"{tags.key}{key}", literal(f"{tags.line}{tags.value_end}\n")
    if types is not None and "string" not in types:
        json = rules.json(schema.with_definitions(value, root), exactly=exactly)
        return rules.rule(f"{literal(head + tags.value_begin[-1] + tags.line)} {json} {end}")
    head = literal(head + tags.value_begin[0] + tags.line)
    if texts := schema.texts(value):
        return rules.rule(f"{head} ({' | '.join(map(literal, texts))}) {end}")
    text = rules.text_up_to(value, f"{tags.line}{tags.value_end}\n", tags.value_end, exactly=exactly)
    return rules.rule(f"{head} {text}")


def _any_element(rules: Rules, tags: Tags) -> str:
    return rules.rule(f"{literal(tags.key)} {NAME} {literal(tags.value_begin[0] + tags.line)} {_text(rules, tags)}")


def _text(rules: Rules, tags: Tags) -> str:
    """The grammar of an arbitrary text and its end."""
    return rules.shortest(f"{free_text([tags.value_end])} {literal(f'{tags.line}{tags.value_end}')} {_LINE}")


QWEN3_CODER = XmlCalls(
    "qwen3-coder",
    ("<tool_call>", "<function="),
    "</tool_call>",
    Tags(("<function=", ">"), "</function>", "<parameter=", (">",), "</parameter>", on_lines=True),
)
SEED = XmlCalls(
    "seed",
    ("<seed:tool_call>",),
    "</seed:tool_call>",
    Tags(("<function=", ">"), "</function>", "<parameter=", (">",), "</parameter>"),
    special_tokens=True,
)
MINIMAX = XmlCalls(
    "minimax-m2",
    ("<minimax:tool_call>",),
    "</minimax:tool_call>",
    Tags(('<invoke name="', '">'), "</invoke>", '<parameter name="', ('">',), "</parameter>"),
    special_tokens=True,
    together=True,
)


def _dsml(name: str, section: str) -> XmlCalls:
    return XmlCalls(
        name,
        (f"<｜DSML｜{section}>",),
        f"</｜DSML｜{section}>",
        Tags(
            ('<｜DSML｜invoke name="', '">'),
            "</｜DSML｜invoke>",
            '<｜DSML｜parameter name="',
            ('" string="true">', '" string="false">'),
            "</｜DSML｜parameter>",
        ),
        special_tokens=True,
        together=True,
    )


DEEPSEEK_V32 = _dsml("deepseek-v3.2", "function_calls")
DEEPSEEK_V4 = _dsml("deepseek-v4", "tool_calls")
