"""The format of GLM 4.5 and later, and of other models that use it.

PURE. `<tool_call>f\\n<arg_key>x</arg_key>\\n<arg_value>1</arg_value>\\n</tool_call>`; GLM 4.7 writes no line breaks,
other models write some of them, so they are optional in the grammar.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from openai_server.core.tools import INPUT, Tool
from openai_server.parsing.reader import Output, Reader, Steps
from openai_server.parsing.tools import schema
from openai_server.parsing.tools.arguments import Elements, Key, parameters_of
from openai_server.parsing.tools.format import ToolFormat, read_name
from openai_server.parsing.tools.grammar import NAME, Rules, free_text, literal, repeated

_KEY = re.compile(r"[^<>\n]+")
_MAX_KEY = 512
_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_KEY_OPEN, _KEY_CLOSE = "<arg_key>", "</arg_key>"
_VALUE_OPEN, _VALUE_CLOSE = "<arg_value>", "</arg_value>"
_LINE = '"\\n"?'
_TO_VALUE = f"{literal(_KEY_CLOSE)} {_LINE} {literal(_VALUE_OPEN)}"


def _read_key(reader: Reader) -> Steps[Key | None]:
    key = yield from reader.run(_KEY, _MAX_KEY)
    if not (yield from reader.literal(_KEY_CLOSE)):
        return None
    yield from reader.spaces()
    return Key(key) if (yield from reader.literal(_VALUE_OPEN)) and key else None


_ELEMENTS = Elements(_KEY_OPEN, (_CLOSE,), _read_key, (_VALUE_CLOSE,))


class Glm(ToolFormat):
    name = "glm"
    arguments = "texts"
    markers = (_OPEN,)

    @property
    def closers(self) -> tuple[str, ...]:
        return (_CLOSE,)

    def _read_call(self, reader: Reader, out: Output, tools: Sequence[Tool], opening: str) -> Steps[bool]:
        yield from reader.spaces()
        name = yield from read_name(reader)
        if not name or not (yield from reader.peek()):
            return False
        out.expect(name)
        return (yield from _ELEMENTS.read(reader, out, name, parameters_of(tools).get(name)))

    def _calls_after_marker(self, rules: Rules, tools: Sequence[Tool], parallel: bool) -> str:
        calls = rules.one_of([self._call(rules, tool) for tool in tools])
        return repeated(calls, f"{_LINE} {literal(_OPEN)}", several=parallel)

    def _call(self, rules: Rules, tool: Tool) -> str:
        rules.begin(tool)
        parameters = schema.closed_parameters(tool.function)
        exactly, required = bool(tool.function.strict), schema.required(parameters)
        elements = [
            (self._element(rules, key, value, parameters, exactly), key in required)
            for key, value in schema.properties(parameters).items()
        ]
        if tool.custom is not None:
            text = rules.input_up_to(tool, _VALUE_CLOSE, _VALUE_CLOSE)
            elements = [(f"{literal(_KEY_OPEN + INPUT)} {_TO_VALUE} {text} {_LINE}", True)]
        if elements or schema.has_no_arguments(parameters):
            body = rules.sequence(elements, "")
        else:
            body = f"({literal(_KEY_OPEN)} {NAME} {_TO_VALUE} {self._text(rules)})*"
        return f"{literal(tool.function.name)} {_LINE} {body} {literal(_CLOSE)}"

    def _element(self, rules: Rules, key: str, value: object, root: Mapping[str, Any], exactly: bool) -> str:
        value = schema.followed(value, root)
        types = schema.types(value, root)
        head = f"{literal(_KEY_OPEN + key)} {_TO_VALUE}"
        if types is not None and "string" not in types:
            json = rules.json(schema.with_definitions(value, root), exactly=exactly)
            return rules.rule(f"{head} {json} {literal(_VALUE_CLOSE)} {_LINE}")
        if texts := schema.texts(value):
            return rules.rule(f"{head} ({' | '.join(map(literal, texts))}) {literal(_VALUE_CLOSE)} {_LINE}")
        text = rules.text_up_to(value, _VALUE_CLOSE, _VALUE_CLOSE, exactly=exactly)
        return rules.rule(f"{head} {text} {_LINE}")

    def _text(self, rules: Rules) -> str:
        return rules.rule(f"{rules.shortest(f'{free_text([_VALUE_CLOSE])} {literal(_VALUE_CLOSE)}')} {_LINE}")


GLM = Glm()
