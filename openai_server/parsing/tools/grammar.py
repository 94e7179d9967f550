"""Grammars that hold a model to calls of given tools, in llguidance's dialect of Lark.

PURE: text only; the worker compiles it. Rules:

- Markers that are control tokens are written as `<…>`; a control token with any other text is known to the worker's
  tokenizer as `<|TEXT|>`. All other markers are text to the grammar, even if the vocabulary has a token for them.
- Free text never matches a control token. But parsers know markers by their text, however a model came to write it, so
  that text is kept out as well.
- JSON is written as models are trained to write it, with one space behind commas and colons and none elsewhere: a small
  model that may write whitespace may never stop doing so.
"""

import re
from collections.abc import Sequence
from typing import Any

import orjson

from openai_server.core import guide_parts
from openai_server.core.errors import InvalidRequest
from openai_server.core.tools import Tool
from openai_server.parsing.tools import schema
from protos.contract import PART_COMMENT

_LIKE_CONTROL = re.compile(r"<\|[^<>\s]+\|>|<｜[^<>\s]+｜>|\[/?[A-Z_]+\]")
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
ANY = "/(?s:.*)/"
NAME = "/[a-zA-Z0-9_.-]{1,64}/"
SPACES = r"/[ \t\r\n]*/"
GAP = r"/[ \n]{0,4}/"
"""What models write in front of calls."""
MAX_LENGTH = 1 << 18
"""Characters of one grammar: no worker takes a longer one, and building it would hold the event loop. 60 tools have
up to 115,000."""


def literal(text: str) -> str:
    """A string of the grammar."""
    # What JSON may leave as it is, but this grammar may not.
    return '"' + orjson.dumps(text).decode()[1:-1].replace("\x7f", "\\x7f") + '"'


def is_control(marker: str) -> bool:
    """Whether vocabularies have this marker as a control token: it looks like one, and so converters to GGUF say."""
    return _LIKE_CONTROL.fullmatch(marker) is not None


def marker(text: str) -> str:
    """A marker, as the token or the text that it is."""
    if not is_control(text):
        return literal(text)
    return text if text.startswith("<") else f"<|{text}|>"


def free_text(without: Sequence[str] = (), not_first: Sequence[str] = ()) -> str:
    """Text in which none of the markers is, and that does not begin (behind whitespace) with any of `not_first`."""
    # All in one negation: each further one would multiply the states of the lexer, up to where llguidance gives up.
    not_this = []
    if without:
        not_this.append(f"{ANY} ({_any_of(without)}) {ANY}")
    if not_first:
        not_this.append(f"{SPACES} ({_any_of(not_first)}) {ANY}")
    return f"({ANY} & ~({' | '.join(not_this)}))" if not_this else ANY


def _any_of(texts: Sequence[str]) -> str:
    return " | ".join(map(literal, texts))


def many(one: str, separator: str, *, several: bool) -> str:
    """What is separated must not go on with anything that begins like the separator."""
    return f"{one} ({separator} {one})*" if several else one


def json_value(schema: Any, *, exactly: bool) -> str:
    """A JSON value. Unless `exactly`, parts of the schema that can't be enforced are left out."""
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {**_JSON_STYLE, "lenient": not exactly}}
    return f"%json {orjson.dumps(schema).decode()}"


class Rules:
    """The rules of one grammar, as they are added. Raises InvalidRequest if they become too long."""

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._length = 0
        self._function = ""

    def begin(self, tool: Tool) -> None:
        """The schemas that follow are of this tool."""
        self._function = tool.function.name

    def _add(self, line: str, part: str = "") -> None:
        """`part`: the part of the grammar that the rule belongs to, for errors."""
        if part:
            line = f"{PART_COMMENT}{part}\n{line}"
        self._length += len(line)
        if self._length > MAX_LENGTH:
            raise InvalidRequest(
                f"The grammar for calls of these tools would be longer than {MAX_LENGTH} characters.", param="tools"
            )
        self._lines.append(line)

    def rule(self, body: str, part: str = "") -> str:
        """Adds a rule and returns its name."""
        name = f"r{len(self._lines)}"
        self._add(f"{name}: {body}", part)
        return name

    def terminal(self, expression: str) -> str:
        """Adds an expression of patterns, which is read as a whole, and as much of it as possible."""
        name = f"T{len(self._lines)}"
        self._add(f"{name}: {expression}")
        return name

    def shortest(self, expression: str) -> str:
        """The same, but it ends where it first can."""
        terminal = self.terminal(expression)
        name = f"r{len(self._lines)}"
        self._add(f"{name}[lazy]: {terminal}")
        return name

    def one_of(self, bodies: Sequence[str]) -> str:
        return self.rule(" | ".join(self.rule(body) for body in bodies))

    def json(self, schema: Any, *, exactly: bool) -> str:
        """A JSON value. Unless `exactly`, parts of the schema that can't be enforced are left out."""
        return self.rule(json_value(schema, exactly=exactly), guide_parts.of_function(self._function))

    def arguments(self, tool: Tool) -> str:
        """The arguments of a call as a JSON object."""
        self.begin(tool)
        if schema.takes_nothing(schema.parameters(tool.function)):
            return literal("{}")
        return self.json(schema.closed_parameters(tool.function), exactly=bool(tool.function.strict))

    def sequence(self, items: Sequence[tuple[str, bool]], separator: str) -> str:
        """Some of the items, in their order and separated; the second part says whether an item must be there."""
        behind = '""'
        first: list[str] = []  # ways to begin with an item, of which those in front are left out; the last one first
        for item, must in reversed(items):
            if must:
                first.clear()
            first.append(f"{item} {behind}")
            again = f"{literal(separator)} {item}" if separator else item
            behind = self.rule(f"{again} {behind}" if must else f"({again})? {behind}")
        may_be_empty = not any(must for _, must in items)
        return self.rule(" | ".join([*reversed(first), *(['""'] if may_be_empty else [])]))

    def text(self, start: str) -> str:
        """The whole grammar."""
        return "\n".join(["%llguidance {}", f"start: {start}", *self._lines, ""])
