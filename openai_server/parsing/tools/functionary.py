"""Functionary's formats.

PURE. v3.1 writes `<function=f>{…}</function>`. v3.2 writes the receiver of each part of an answer, `>>>f\\n{…}` or
`>>>all\\ntext`; the prompt ends with the first `>>>`.
"""

from collections.abc import Sequence

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat, read_name
from openai_server.parsing.tools.grammar import ANY, Rules, free_text, literal, repeated

_ALL = literal("all\n")
"""The header of content in v3.2."""


class FunctionaryV31(ToolFormat):
    name = "functionary-v3.1"
    markers = ("<function=",)

    @property
    def closers(self) -> tuple[str, ...]:
        return ("</function>",)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        name = yield from read_name(reader)
        if not name or not (yield from reader.literal(">")):
            return False
        out.expect(name)
        yield from reader.spaces()
        return (yield from json_text.arguments_of(reader, out, name, None, self.closers))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of(
            [f'{literal(tool.function.name + ">")} {rules.arguments(tool)} "</function>"' for tool in tools]
        )
        return repeated(calls, literal(self.markers[0]), several=parallel)


class FunctionaryV32(ToolFormat):
    name = "functionary-v3.2"
    parses_all_answers = True
    starts_in_prompt = True
    markers = (">>>",)

    def prompt_tail(self, prompt: str) -> str:
        return ">>>" if prompt.endswith(">>>") else ""

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        name = yield from read_name(reader)
        if not name or not (yield from reader.literal("\n")):
            return False
        if name == "all":
            reader.forget()
            return True
        out.expect(name)
        return (yield from json_text.arguments_of(reader, out, name, None, self.markers))

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return self._calls_after_marker(rules, tools, parallel)

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        return repeated(calls, literal(self.markers[0]), several=parallel)

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f"{tool.function.name}\n")
        return f"{head} {rules.arguments(tool)}"

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        calls = self._calls_after_marker(rules, tools, parallel)
        text = self._text_only(rules, tools, not_first)
        text_and_marker = rules.shortest(f"{_ALL} {ANY} {literal(self.markers[0])}")
        return rules.rule(f"{calls} | {text} | {text_and_marker} {calls}")

    def _text_only(self, rules: Rules, tools: Sequence[Tool], not_first: Sequence[str] = ()) -> str:
        return rules.terminal(f"{_ALL} {free_text(self.markers)}")


FUNCTIONARY_V31 = FunctionaryV31()
FUNCTIONARY_V32 = FunctionaryV32()
