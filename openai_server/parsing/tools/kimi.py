"""Kimi K2's format.

PURE. `<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`. A pair of markers encloses all
calls. `functions.f:0` is the id that the model expects with the result.
"""

import re
from collections.abc import Sequence

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat
from openai_server.parsing.tools.grammar import Rules, literal, marker, repeated

_ARGUMENTS, _END = "<|tool_call_argument_begin|>", "<|tool_call_end|>"
_ALL, _ALL_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
_ID = re.compile(r"[a-zA-Z0-9_.:-]+")
_MAX_ID = 160


class Kimi(ToolFormat):
    name = "kimi"
    special_tokens = True
    section = _ALL
    markers = ("<|tool_call_begin|>",)
    ignored_markers = (_ALL, _ALL_END, _END)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        yield from reader.spaces()
        id = yield from reader.run(_ID, _MAX_ID)
        yield from reader.spaces()
        name = (id or "").removeprefix("functions.").rpartition(":")[0]
        if not name or not (yield from reader.literal(_ARGUMENTS)):
            return False
        out.expect(name, id)
        yield from reader.spaces()
        return (yield from json_text.arguments_of(reader, out, name, id, (*self.ignored_markers, *self.markers)))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        return f"{repeated(calls, marker(self.markers[0]), several=parallel)} {marker(_ALL_END)}"

    def _call(self, rules: Rules, tool: Tool) -> str:
        head = literal(f"functions.{tool.function.name}:")
        return f"{head} /[0-9]{{1,3}}/ {marker(_ARGUMENTS)} {rules.arguments(tool)} {marker(_END)}"


KIMI = Kimi()
