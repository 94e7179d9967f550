"""Grammars that restrict a model to calls of some tools, in llguidance's dialect of Lark.

PURE: text only; the worker compiles it. Rules:

- Markers that are control tokens are written as `<…>`. The worker's tokenizer names a control token with any other text
  `<|TEXT|>`. All other markers are text to the grammar, even if the vocabulary has a token for them.
- Free text never matches a control token. Parsers recognize markers by their text, whichever tokens form it, so free
  text excludes that text too.
- JSON has the style of `core/lark.py`.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openai_server.core import guide_parts
from openai_server.core.errors import InvalidRequest
from openai_server.core.lark import json_value
from openai_server.core.lark import literal as literal
from openai_server.core.tools import INPUT, Tool
from openai_server.parsing.lark.characters import Refused
from openai_server.parsing.lark.nested import in_json_string, regex_in_json_string, regex_up_to, search_pattern, up_to
from openai_server.parsing.tools import schema
from protos.contract import PART_COMMENT

_LIKE_CONTROL = re.compile(r"<\|[^<>\s]+\|>|<｜[^<>\s]+｜>|\[/?[A-Z_]+\]")
ANY = "/(?s:.*)/"
NAME = "/[a-zA-Z0-9_.-]{1,64}/"
SPACES = r"/[ \t\r\n]*/"
GAP = r"/[ \n]{0,4}/"
"""Whitespace that models write before calls."""
MAX_LENGTH = 1 << 18
"""Characters of one grammar. Workers accept no longer one, and building it would block the event loop. 60 tools need up
to 115,000."""


class GrammarTooLong(InvalidRequest):
    """The grammar would have more than MAX_LENGTH characters."""


def is_control(marker: str) -> bool:
    """Whether the marker is a control token in vocabularies, by its form, as converters to GGUF decide."""
    return _LIKE_CONTROL.fullmatch(marker) is not None


def marker(text: str) -> str:
    """The marker in the grammar: a token or a string literal."""
    if not is_control(text):
        return literal(text)
    return text if text.startswith("<") else f"<|{text}|>"


def free_text(without: Sequence[str] = (), not_first: Sequence[str] = ()) -> str:
    """Text that contains none of `without`, and doesn't begin with any of `not_first`, ignoring whitespace."""
    # One negation for all: each further one would multiply the states of the lexer, until llguidance gives up.
    excluded = []
    if without:
        excluded.append(f"{ANY} ({_any_of(without)}) {ANY}")
    if not_first:
        excluded.append(f"{SPACES} ({_any_of(not_first)}) {ANY}")
    return f"({ANY} & ~({' | '.join(excluded)}))" if excluded else ANY


def _any_of(texts: Sequence[str]) -> str:
    return " | ".join(map(literal, texts))


def repeated(item: str, separator: str, *, several: bool) -> str:
    """One item, or any number if `several`. Text after the items must not begin like the separator."""
    return f"{item} ({separator} {item})*" if several else item


def follows_grammar(tool: Tool) -> bool:
    """Whether the tool is a custom tool whose input must match a definition."""
    return tool.custom is not None and tool.custom.syntax != "text" and tool.function.strict is not False


@contextmanager
def _naming(tool: Tool) -> Iterator[None]:
    """Adds the tool to the error for a definition that can't be enforced."""
    try:
        yield
    except Refused as error:
        assert tool.custom is not None
        kind = "grammar" if tool.custom.syntax == "lark" else "regular expression"
        raise InvalidRequest(
            f"The {kind} of the tool '{tool.name}' can't be enforced: {error}.",
            param=guide_parts.of_function(tool.name),
        ) from None


class Rules:
    """Collects the rules of one grammar. Raises InvalidRequest if they become too long."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._length = 0
        self._function = ""

    def begin(self, tool: Tool) -> None:
        """Assigns the schemas that follow to this tool, for errors."""
        self._function = tool.function.name

    def _add(self, line: str, part: str = "") -> None:
        """Adds a line. `part` is the part of the grammar that it belongs to, for errors."""
        if part:
            line = f"{PART_COMMENT}{part}\n{line}"
        self._length += len(line)
        if self._length > MAX_LENGTH:
            raise GrammarTooLong(
                f"The grammar of the answer would be longer than {MAX_LENGTH} characters.", param="tools"
            )
        self._lines.append(line)

    def rule(self, body: str, part: str = "") -> str:
        """Adds a rule and returns its name."""
        name = f"r{len(self._lines)}"
        self._add(f"{name}: {body}", part)
        return name

    def terminal(self, expression: str) -> str:
        """Adds an expression of patterns that matches as one token, as long as possible. Returns its name."""
        name = f"T{len(self._lines)}"
        self._add(f"{name}: {expression}")
        return name

    def shortest(self, expression: str) -> str:
        """Like `terminal`, but matches as little as possible."""
        terminal = self.terminal(expression)
        name = f"r{len(self._lines)}"
        self._add(f"{name}[lazy]: {terminal}")
        return name

    def one_of(self, bodies: Sequence[str]) -> str:
        return self.rule(" | ".join(self.rule(body) for body in bodies))

    def json(self, schema: Any, *, exactly: bool) -> str:
        """A JSON value. Unless `exactly`, parts of the schema that can't be enforced are ignored."""
        return self.rule(json_value(schema, exactly=exactly), guide_parts.of_function(self._function))

    def arguments(self, tool: Tool) -> str:
        """The arguments of a call as a JSON object."""
        self.begin(tool)
        if tool.custom is not None:
            head = literal(f'{{"{INPUT}": ')
            return f'{head} {self.input(tool)} "}}"'
        if schema.has_no_arguments(schema.parameters(tool.function)):
            return literal("{}")
        return self.json(schema.closed_parameters(tool.function), exactly=bool(tool.function.strict))

    def input(self, tool: Tool) -> str:
        """The input of a custom tool as a JSON string. Raises InvalidRequest if that can't be enforced."""
        custom = tool.custom
        assert custom is not None
        if not follows_grammar(tool):
            return self.json({"type": "string"}, exactly=False)
        with _naming(tool):
            rewrite = in_json_string if custom.syntax == "lark" else regex_in_json_string
            nested = self.rule(rewrite(custom.definition), guide_parts.of_function(tool.name))
        return f'"\\"" {nested} "\\""'

    def input_up_to(self, tool: Tool, end: str, tag: str) -> str:
        """The input of a custom tool as raw text, and `end` after it, which begins at the first `tag`. Raises
        InvalidRequest if that can't be enforced."""
        custom = tool.custom
        assert custom is not None
        if not follows_grammar(tool):
            return self.shortest(f"{free_text([tag])} {literal(end)}")
        with _naming(tool):
            rewrite = up_to if custom.syntax == "lark" else regex_up_to
            return self.rule(rewrite(custom.definition, end, tag), guide_parts.of_function(tool.name))

    def text_up_to(self, value: object, end: str, tag: str, *, exactly: bool) -> str:
        """A string argument as raw text, and `end` after it, which begins at the first `tag`. If `exactly`, the text
        follows the constraints of its schema."""
        constraints = [free_text([tag])]
        if exactly and isinstance(value, dict):
            low, high, pattern = (value.get(key) for key in ("minLength", "maxLength", "pattern"))
            if low is not None or high is not None:
                constraints.append(f"/(?s:.){{{low or 0},{'' if high is None else high}}}/")
            if isinstance(pattern, str):
                constraints.append(search_pattern(pattern) or ANY)
        return self.shortest(f"({' & '.join(constraints)}) {literal(end)}")

    def sequence(self, items: Sequence[tuple[str, bool]], separator: str) -> str:
        """A sequence of the items in their order, with separators. The second part of an item is whether it is
        required."""
        rest = '""'  # the grammar of the items after the current one
        first: list[str] = []  # alternatives that begin with an item and omit those before it, last item first
        for item, required in reversed(items):
            if required:
                first.clear()
            first.append(f"{item} {rest}")
            separated = f"{literal(separator)} {item}" if separator else item
            rest = self.rule(f"{separated} {rest}" if required else f"({separated})? {rest}")
        may_be_empty = not any(required for _, required in items)
        return self.rule(" | ".join([*reversed(first), *(['""'] if may_be_empty else [])]))

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._lines, ""])
