"""Formats without a marker: an answer that begins like a call is one.

PURE. Llama 3 writes a JSON object, `{"name": "f", "parameters": {…}}`, at times several with `;` between them; Llama 4,
and Llama 3.2 if asked to, a list of calls as in Python, `[f(x=1), g(y="a")]`. A control token may stand in front.
"""

from abc import abstractmethod
from collections.abc import Sequence

from openai_server.chat.reader import Output, Reader, Steps
from openai_server.chat.tools.format import ToolFormat
from openai_server.chat.tools.grammar import GAP, Rules, free_text, literal
from openai_server.chat.tools.json_calls import read_calls
from openai_server.chat.tools.python_calls import python_calls, read_python_calls
from openai_server.schemas import Tool


class BareCalls(ToolFormat):
    special_tokens = True
    bracket: str
    """The character that a call begins with."""

    def _read(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        reader.keep()
        yield from reader.spaces()
        if (yield from reader.peek()) == self.bracket:
            yield from self._read_bare(reader, out, tools)
        out.content(reader.kept())
        yield from super()._read(reader, out, tools)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], found: str) -> Steps[None]:
        yield from reader.spaces()
        yield from self._read_bare(reader, out, tools)

    @abstractmethod
    def _read_bare(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]: ...

    def _calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return f"{GAP} {self._behind_marker(rules, tools, parallel)}"

    def _text_or_calls(self, rules: Rules, tools: Sequence[Tool], parallel: bool, not_first: Sequence[str] = ()) -> str:
        text = rules.terminal(free_text(self.markers, [self.bracket, *not_first]))
        return rules.rule(f"{text} | {self._calls(rules, tools, parallel)}")


class LlamaJson(BareCalls):
    name = "llama-json"
    bracket = "{"
    markers = ("<|python_tag|>",)

    def _read_bare(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        # Without a marker, an object with a name is not yet a call.
        yield from read_calls(reader, out, frozenset(tool.function.name for tool in tools))

    def _behind_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        # Never several: the template refuses a conversation with more than one call at once.
        return rules.one_of([self._call(rules, tool) for tool in tools])

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f'{{"name": "{tool.function.name}", "parameters": ')
        return f'{head} {rules.arguments(tool)} "}}"'


class LlamaPythonic(BareCalls):
    name = "llama-pythonic"
    bracket = "["
    markers = ("<|python_start|>", "<|python_tag|>")
    dropped = ("<|python_end|>",)

    def _read_bare(self, reader: Reader, out: Output, tools: Sequence[Tool]) -> Steps[None]:
        yield from read_python_calls(reader, out)

    def _behind_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        return python_calls(rules, tools, parallel)


LLAMA_JSON = LlamaJson()
LLAMA_PYTHONIC = LlamaPythonic()
