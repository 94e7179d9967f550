"""Mistral's formats.

PURE. Older models write a list, `[TOOL_CALLS][{"name": "f", "arguments": {…}}]`. Newer models write a marker for each
call, `[TOOL_CALLS]f[ARGS]{…}`, some with an id, `[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{…}`. The parser accepts all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from openai_server.core.tools import Tool
from openai_server.parsing import json_text
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools.format import ToolFormat, read_name
from openai_server.parsing.tools.grammar import Rules, literal, marker, repeated
from openai_server.parsing.tools.json_calls import JsonCalls, read_calls

_CALLS, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"


def _read_call(reader: Reader, out: Output) -> Steps[bool]:
    yield from reader.spaces()
    if (yield from reader.peek()) in ("[", "{"):
        return (yield from read_calls(reader, out))
    name = yield from read_name(reader)
    if not name or not (yield from reader.peek()):
        return False
    out.expect(name)
    id = None
    if (yield from reader.literal(_ID)):
        id = (yield from read_name(reader)) or None
    if (yield from reader.literal(_ARGUMENTS)):
        out.expect(name, id)
        yield from reader.spaces()
        return (yield from json_text.arguments_of(reader, out, name, id, (_CALLS,)))
    yield from reader.spaces()
    if (yield from reader.peek()) != "{":
        return False
    return (yield from json_text.arguments_of(reader, out, name, id, (_CALLS,)))


@dataclass(frozen=True)
class MistralCalls(ToolFormat):
    name: str
    ids: bool
    special_tokens: bool = True
    markers: tuple[str, ...] = (_CALLS,)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        return _read_call(reader, out)

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        id = f"{marker(_ID)} /[a-zA-Z0-9]{{9}}/" if self.ids else ""
        call = rules.one_of(
            [f"{literal(tool.function.name)} {id} {marker(_ARGUMENTS)} {rules.arguments(tool)}" for tool in tools]
        )
        return repeated(call, marker(_CALLS), several=parallel)


class MistralList(JsonCalls):
    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        return _read_call(reader, out)


MISTRAL_LIST = MistralList("mistral-list", (_CALLS,), special_tokens=True, listed=True)
MISTRAL = MistralCalls("mistral", ids=False)
MISTRAL_WITH_IDS = MistralCalls("mistral-ids", ids=True)
