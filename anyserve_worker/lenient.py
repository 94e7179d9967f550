"""Patterns that llguidance can't enforce, left out of lenient schemas. PURE.

llguidance leaves out whole keywords that it doesn't know, but refuses a `pattern` with look-around, a word boundary or
a backreference, such as zod writes for `email()`.
"""

import json
import re
from collections.abc import Callable
from typing import Any

IsEnforceable = Callable[[str], bool]

_NESTED = re.compile(r"(?<=%json )\{.*\}$", re.MULTILINE)
"""A schema in a Lark grammar, on one line."""
_DATA = frozenset({"const", "default", "enum", "examples"})
"""Keywords whose values are no schemas."""
_OPTIONS = "x-guidance"


def without_patterns(grammar: str, is_enforceable: IsEnforceable) -> str | None:
    """A grammar in llguidance's own form, without what can't be enforced; None if all of it can be."""
    if grammar.startswith("{"):
        whole = json.loads(grammar)
        found = [_relax(part.get("json_schema"), is_enforceable) for part in whole["grammars"]]
        return json.dumps(whole) if any(found) else None

    def relaxed(match: re.Match[str]) -> str:
        schema = json.loads(match[0])
        return json.dumps(schema) if _relax(schema, is_enforceable) else match[0]

    changed = _NESTED.sub(relaxed, grammar)
    return None if changed == grammar else changed


def _relax(schema: Any, is_enforceable: IsEnforceable) -> bool:
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
        if not isinstance(part, dict):
            continue
        if isinstance(pattern := part.get("pattern"), str) and not is_enforceable(pattern):
            del part["pattern"]
            found = True
        names = part.get("patternProperties")
        if isinstance(names, dict) and (beyond := [name for name in names if not is_enforceable(name)]):
            for name in beyond:
                del names[name]
            # Members of these names must stay possible.
            part["additionalProperties"] = True
            found = True
        rest += [value for key, value in part.items() if key not in _DATA]
    return found
