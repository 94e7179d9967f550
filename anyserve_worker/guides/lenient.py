"""Removes keywords with values that llguidance can't enforce from lenient schemas. PURE.

llguidance ignores unknown keywords of a lenient schema. It refuses known ones if it can't enforce their value: a
`pattern` with look-around (zod writes one for `email()`), overlapping property patterns, or a `maximum` of 1.8e308.
"""

import json
import re
from collections.abc import Callable
from typing import Any

Refuses = Callable[[str], bool]
"""(schema as JSON) → whether llguidance refuses it."""

_NESTED = re.compile(r"(?<=%json )\{.*\}$", re.MULTILINE)
"""A schema in a Lark grammar, on one line."""
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values aren't schemas."""
_NUMBERS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_OPTIONS = "x-guidance"


def relax(grammar: str, refuses: Refuses) -> str | None:
    """Returns the grammar without the keywords of lenient schemas that can't be enforced; None if it has none.

    `grammar` is in llguidance's own form.
    """
    if grammar.startswith("{"):
        whole = json.loads(grammar)
        removed = [_relax_schema(part.get("json_schema"), refuses) for part in whole["grammars"]]
        return json.dumps(whole) if any(removed) else None

    def replacement(match: re.Match[str]) -> str:
        schema = json.loads(match[0])
        return json.dumps(schema) if _relax_schema(schema, refuses) else match[0]

    changed = _NESTED.sub(replacement, grammar)
    return None if changed == grammar else changed


def _relax_schema(schema: Any, refuses: Refuses) -> bool:
    """Removes such keywords from a lenient schema. Returns whether there were any."""
    options = schema.get(_OPTIONS) if isinstance(schema, dict) else None
    if not isinstance(options, dict) or not options.get("lenient"):
        return False
    removed = False
    rest: list[Any] = [schema]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        elif isinstance(part, dict):
            for key in _unenforceable(part, refuses):
                del part[key]
                if key == "patternProperties":  # Properties with such names must stay allowed.
                    part["additionalProperties"] = True
                removed = True
            rest += [value for key, value in part.items() if key not in _DATA]
    return removed


def _unenforceable(part: dict[str, Any], refuses: Refuses) -> list[str]:
    """Returns the valid keywords of a schema that llguidance can't enforce."""
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
    """Returns whether Python accepts the pattern. (JSON Schema's patterns are JavaScript's.)"""
    try:
        re.compile(pattern)
        return True
    except (re.error, OverflowError, RecursionError):
        return False
