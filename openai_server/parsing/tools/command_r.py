"""Cohere's formats.

PURE. Command R+ writes a list of calls after `Action:`, in a code block. Command R7B and later models use control
tokens: `<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "f", "parameters": {…}}]<|END_ACTION|>`. They write markers
around all other answers too.
"""

from collections.abc import Sequence

from openai_server.core.tools import Tool
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.grammar import Rules, free_text, literal, marker, repeated
from openai_server.parsing.tools.json_calls import read_calls

_END = "<|END_ACTION|>"


class CommandR(ToolFormat):
    name = "command-r"
    markers = ("Action:\n```json", "Action: ```json")

    @property
    def closers(self) -> tuple[str, ...]:
        return ("```",)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        return (yield from read_calls(reader, out))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        begin, between, end = literal("\n[\n    {\n"), literal(",\n    {\n"), literal("\n]\n```")
        return f"{begin} {repeated(calls, between, several=parallel)} {end}"

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f'        "tool_name": "{tool.function.name}",\n        "parameters": ')
        tail = literal("\n    }")
        return f"{head} {rules.arguments(tool)} {tail}"


class CommandR7B(ToolFormat):
    special_tokens = True
    parses_all_answers = True
    markers = ("<|START_ACTION|>",)

    def __init__(self, name: str, answer: tuple[str, str]) -> None:
        self.name = name
        self._answer = answer
        self.ignored_markers = (*answer, _END)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        return (yield from read_calls(reader, out))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        begin, between, end = literal("[\n    "), literal(",\n    "), literal("\n]")
        return f"{begin} {repeated(calls, between, several=parallel)} {end} {marker(_END)}"

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f'", "tool_name": "{tool.function.name}", "parameters": ')
        id = literal('{"tool_call_id": "') + " /[0-9]{1,3}/"
        return f'{id} {head} {rules.arguments(tool)} "}}"'

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        text = self._text_only(rules, tools, not_first)
        return rules.rule(f"{text} | {self._calls(rules, tools, parallel)}")

    def _text_only(self, rules: Rules, tools: Sequence[Tool], not_first: Sequence[str] = ()) -> str:
        text = rules.terminal(free_text(self.markers, not_first))
        return rules.rule(f"{text} | {marker(self._answer[0])} {text} {marker(self._answer[1])}")


COMMAND_R = CommandR()
COMMAND_R7B = CommandR7B("command-r7b", ("<|START_RESPONSE|>", "<|END_RESPONSE|>"))
COHERE2 = CommandR7B("cohere2", ("<|START_TEXT|>", "<|END_TEXT|>"))
