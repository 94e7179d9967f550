"""Names of the parts of a grammar that is built from several fields of a request. PURE.

The backend names the part in its error; `Dialect.fields` has the field that each came from.
"""

GUIDE = "guide"
"""What the content has to match."""
_FUNCTION = "function "
"""In front of the name of a function whose arguments the part describes."""


def of_function(name: str) -> str:
    return _FUNCTION + name


def function_of(part: str) -> str:
    """The name of the function; empty for another part."""
    return part.removeprefix(_FUNCTION) if part.startswith(_FUNCTION) else ""
