"""Parts of grammars in llguidance's dialect of Lark. PURE.

JSON has the style that models are trained on, unless a request sets another one: one space after commas and colons,
and none elsewhere. If whitespace were optional, a small model might write it without end.
"""

from typing import Any

import orjson

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}


def literal(text: str) -> str:
    """The text as a string literal."""
    # JSON allows this character unescaped, the grammar doesn't.
    return '"' + orjson.dumps(text).decode()[1:-1].replace("\x7f", "\\x7f") + '"'


def json_value(schema: Any, *, exactly: bool, whitespace: str | None = None) -> str:
    """A JSON value. Unless `exactly`, parts of the schema that can't be enforced are ignored.

    `whitespace` is a regular expression for the whitespace between its tokens; None: the style of training data.
    """
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema = {**schema, "x-guidance": {**_style(whitespace), "lenient": not exactly}}
    return f"%json {orjson.dumps(schema).decode()}"


def _style(whitespace: str | None) -> dict[str, Any]:
    if whitespace is None:
        return _JSON_STYLE
    pattern = {"whitespace_pattern": whitespace} if whitespace else {}
    return {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":", **pattern}


def nested(grammar: str) -> str:
    """A whole grammar as a part of another one. Its lines begin after the first line of this text."""
    return f"%lark {{\n{grammar}\n}}"
