"""Formats without a marker: an answer that begins like a call is a call.

PURE. Llama 3 writes a JSON object, `{"name": "f", "parameters": {…}}`, sometimes several, separated by `;`. Llama 4,
and Llama 3.2 with a suitable prompt, write a list of Python calls, `[f(x=1), g(y="a")]`. Both sometimes begin with a
control token. Without it, the text up to the name of a tool is the opening marker: JSON that names no tool is content.
If the text ends within a name, it is a call if the partial name matches a tool.
"""

import re
from abc import abstractmethod
from collections.abc import Iterable, Sequence

from openai_server.core.tools import Tool
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.grammar import GAP, Rules, free_text, literal
from openai_server.parsing.tools.json_calls import read_calls
from openai_server.parsing.tools.python_calls import python_calls, read_python_calls


class BareCalls(ToolFormat):
    special_tokens = True
    bracket: str
    """The character that a call begins with."""
    call_begins: tuple[str, ...]
    """Texts that a call begins with, up to the name of its tool. (The parser reads other spellings too.)"""
    open_name: re.Pattern[str]
    """Matches the text before the name of the first call; the group is the name or a part of it."""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        names = frozenset(tool.function.name for tool in tools)
        broken = False
        reader.keep()
        yield from reader.spaces()
        if (yield from reader.peek()) == self.bracket:
            complete = yield from self._read_bare(reader, out, names)
            text = reader.take_kept()
            if reader.ran_out and (out.n_calls or out.has_expected_call or self._names_one_of(names, text)):
                self._cut(reader, out)
                return
            out.expect_none()
            if out.n_calls == 0:
                out.content(text)
            elif complete:
                yield from self._finish(reader)
            else:
                broken = True
        else:
            out.content(reader.take_kept())
        yield from self._read_on(reader, out, tools, broken=broken)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        yield from reader.spaces()
        return (yield from self._read_bare(reader, out, frozenset(tool.function.name for tool in tools)))

    def _names_one_of(self, names: Iterable[str], text: str) -> bool:
        """Whether the text ends within the name of the first call, and one of `names` begins with that partial name."""
        match = self.open_name.fullmatch(text)
        return match is not None and any(name.startswith(match[1]) for name in names)

    @abstractmethod
    def _read_bare(self, reader: Reader, out: Output, names: frozenset[str]) -> Steps[bool]:
        """Reads the calls. Returns whether they were complete."""

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return f"{GAP} {self._calls_after_marker(rules, tools, parallel)}"

    def _text_only(self, rules: Rules, tools: Sequence[Tool], not_first: Sequence[str] = ()) -> str:
        calls = [begin + tool.name for tool in tools for begin in self.call_begins]
        return rules.terminal(free_text(self.markers, [*calls, *not_first]))

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        text = rules.terminal(free_text(self.markers, [self.bracket, *not_first]))
        return rules.rule(f"{text} | {self._calls(rules, tools, parallel)}")


class LlamaJson(BareCalls):
    name = "llama-json"
    bracket = "{"
    call_begins = ('{"name": "', '{"name":"', '{"type": "function", "name": "', '{"type":"function","name":"')
    open_name = re.compile(r'\s*\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?"(?:name|function)"\s*:\s*"([^"]*)')
    markers = ("<|python_tag|>",)

    def _read_bare(self, reader: Reader, out: Output, names: frozenset[str]) -> Steps[bool]:
        # Without a marker, only an object with the name of a tool is a call.
        return (yield from read_calls(reader, out, names))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        # Never several calls: the template refuses a message with more than one.
        return rules.one_of([self._call(rules, tool) for tool in tools])

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f'{{"name": "{tool.function.name}", "parameters": ')
        return f'{head} {rules.arguments(tool)} "}}"'


class LlamaPythonic(BareCalls):
    name = "llama-pythonic"
    arguments = "values"
    bracket = "["
    call_begins = ("[",)
    open_name = re.compile(r"\s*\[\s*([\w.-]+)")
    markers = ("<|python_start|>", "<|python_tag|>")
    ignored_markers = ("<|python_end|>",)

    def _read_bare(self, reader: Reader, out: Output, names: frozenset[str]) -> Steps[bool]:
        return (yield from read_python_calls(reader, out, names))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return python_calls(rules, tools, parallel)


LLAMA_JSON = LlamaJson()
LLAMA_PYTHONIC = LlamaPythonic()
