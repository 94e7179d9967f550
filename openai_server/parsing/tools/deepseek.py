"""DeepSeek's formats.

PURE. V3 and R1 write `<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\\n```json\\n{…}\\n```<｜tool▁call▁end｜>`, V3.1
writes `<｜tool▁call▁begin｜>f<｜tool▁sep｜>{…}<｜tool▁call▁end｜>`. A pair of markers encloses all calls. The parser
accepts both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat, read_name
from openai_server.parsing.tools.grammar import Rules, literal, marker, repeated

_ALL, _ALL_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_ONE, _ONE_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
_SEPARATOR = "<｜tool▁sep｜>"
_LINE = literal("\n")


@dataclass(frozen=True)
class DeepSeek(ToolFormat):
    name: str
    fenced: bool
    special_tokens: bool = True
    section: str = _ALL
    markers: tuple[str, ...] = (_ONE,)
    ignored_markers: tuple[str, ...] = (_ALL, _ALL_END, _ONE_END)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        yield from reader.spaces()
        name = yield from read_name(reader)
        if not name or not (yield from reader.literal(_SEPARATOR)):
            return False
        yield from reader.spaces()
        fence = ""
        if name == "function" and (yield from reader.peek()) != "{":
            name = yield from read_name(reader)
            if not name or not (yield from reader.peek()):
                return False
            out.expect(name)
            yield from reader.spaces()
            fence = yield from reader.literal("```json")
            yield from reader.spaces()
        out.expect(name)
        ends = ("```",) if fence else (_ONE_END, _ALL_END, _ONE)
        if not (yield from json_text.arguments_of(reader, out, name, None, ends)):
            return False
        if fence:
            yield from reader.spaces()
            yield from reader.literal("```")
        return True

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        between = f"{_LINE} {marker(_ONE)}" if self.fenced else marker(_ONE)
        return f"{repeated(calls, between, several=parallel)} {marker(_ALL_END)}"

    def _call(self, rules: Rules, tool: Tool) -> str:
        name, arguments = tool.function.name, rules.arguments(tool)
        if self.fenced:
            head, tail = literal(f"{name}\n```json\n"), literal("\n```")
            return f'"function" {marker(_SEPARATOR)} {head} {arguments} {tail} {marker(_ONE_END)}'
        return f"{literal(name)} {marker(_SEPARATOR)} {arguments} {marker(_ONE_END)}"


DEEPSEEK_V3 = DeepSeek("deepseek-v3", fenced=True)
DEEPSEEK_V31 = DeepSeek("deepseek-v3.1", fenced=False)
