"""Names of the parts of a grammar that is built from several fields of a request. PURE.

A backend's error contains the name of the part; `Dialect.fields` maps it to the client's field.
"""

GUIDE = "guide"
"""The part that the content must match."""
_FUNCTION = "function "
"""Prefix of the name of a part for a function's arguments; the function's name follows."""


def of_function(name: str) -> str:
    """The name of the part for this function's arguments."""
    return _FUNCTION + name


def function_of(part: str) -> str:
    """The name of the function; empty for another part."""
    return part.removeprefix(_FUNCTION) if part.startswith(_FUNCTION) else ""
