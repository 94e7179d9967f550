"""Keywords with values that llguidance can't enforce, left out of lenient schemas. PURE.

llguidance itself leaves out keywords that it doesn't know at all. It refuses those that it knows, such as a `pattern`
with look-around (zod writes one for `email()`), patterns of properties that overlap, or a `maximum` of 1.8e308.
"""

import json
import re
from collections.abc import Callable
from typing import Any

Refuses = Callable[[str], bool]
"""Whether llguidance refuses a schema, as JSON."""

_NESTED = re.compile(r"(?<=%json )\{.*\}$", re.MULTILINE)
"""A schema in a Lark grammar, on one line."""
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are no schemas."""
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OPTIONS = "x-guidance"


def relaxed(grammar: str, refuses: Refuses) -> str | None:
    """A grammar in llguidance's own form, without what it can't enforce of lenient schemas; None if that is nothing."""
    if grammar.startswith("{"):
        whole = json.loads(grammar)
        found = [_relax(part.get("json_schema"), refuses) for part in whole["grammars"]]
        return json.dumps(whole) if any(found) else None

    def replacement(match: re.Match[str]) -> str:
        schema = json.loads(match[0])
        return json.dumps(schema) if _relax(schema, refuses) else match[0]

    changed = _NESTED.sub(replacement, grammar)
    return None if changed == grammar else changed


def _relax(schema: Any, refuses: Refuses) -> bool:
    """Changes a lenient schema; returns whether there was something to leave out."""
    options = schema.get(_OPTIONS) if isinstance(schema, dict) else None
    if not isinstance(options, dict) or not options.get("lenient"):
        return False
    found = False
    rest: list[Any] = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        elif isinstance(part, dict):
            for key in _beyond(part, refuses):
                del part[key]
                if key == "patternProperties":  # Members of such names must stay possible.
                    part["additionalProperties"] = True
                found = True
            rest += [value for key, value in part.items() if key not in _DATA]
    return found


def _beyond(part: dict[str, Any], refuses: Refuses) -> list[str]:
    """Keywords of a schema that are right, but that llguidance can't enforce."""
    alone: dict[str, dict[str, Any]] = {}
    if isinstance(dialect := part.get("$schema"), str):
        alone["$schema"] = {"$schema": dialect}
    if isinstance(pattern := part.get("pattern"), str) and _is_regex(pattern):
        alone["pattern"] = {"type": "string", "pattern": pattern}
    if isinstance(names := part.get("patternProperties"), dict) and all(map(_is_regex, names)):
        alone["patternProperties"] = {"type": "object", "patternProperties": {name: {} for name in names}}
    kind = "integer" if part.get("type") == "integer" else "number"
    for key in _NUMBERS:
        value = part.get(key)
        if isinstance(value, int | float) and (key != "multipleOf" or value > 0):
            alone[key] = {"type": kind, key: value}
    return [key for key, schema in alone.items() if refuses(json.dumps(schema))]


def _is_regex(pattern: str) -> bool:
    """As far as Python knows; in JSON Schema it is JavaScript that does."""
    try:
        re.compile(pattern)
        return True
    except (re.error, OverflowError, RecursionError):
        return False
