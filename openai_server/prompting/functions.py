"""The filters, tests and methods of built-in types that a template may call, with limits on the size of their results.

PURE. Only those in the tables here are available. A few can return results out of proportion to their arguments; the
size of such a result is calculated before the call.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import Environment, TemplateRuntimeError, Undefined, pass_environment
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter
from jinja2.tests import TESTS as JINJA_TESTS

from openai_server.prompting.limits import CONTAINERS, CURRENT, Budget, LimitExceeded, Metered

Function = Callable[..., Any]

MAX_WIDTH = 9999
"""Characters of a field in a format string."""
_MAX_FORMAT = 4096
"""Characters of a %-format string."""
_MAX_AT_ONCE = 1 << 18
"""Characters of JSON to write in one call. During the call, no other thread runs and the clock isn't checked."""


# ---- Values to text


def text(value: object) -> str:
    """`str(value)`. Raises TemplateRuntimeError for types that have no textual form."""
    budget = CURRENT.get()
    if isinstance(value, CONTAINERS):
        budget.spend(budget.weigh(value))
    elif isinstance(value, str):
        budget.spend(len(value))
    elif not (value is None or isinstance(value, int | float | Undefined)):
        raise TemplateRuntimeError(f"a value of type {type(value).__name__} can't be written")
    return str(value)


_WIDE = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\*|\d{5})")


def check_percent(budget: Budget, template: str | bytes, values: object) -> None:
    if isinstance(template, bytes) or len(template) > _MAX_FORMAT or _WIDE.search(template):
        raise LimitExceeded("a format string was too long, or a field in it too wide")
    budget.spend((1 + template.count("%")) * (MAX_WIDTH + budget.weigh(values)))


# ---- Methods of built-in types, with the maximum size of their results where needed


def _padded(budget: Budget, _: str, width: int = 0, *__: object) -> None:
    budget.spend(max(width, 0))


def _replaced(budget: Budget, owner: str, old: str = "", new: str = "", count: int | None = -1, *_: object) -> None:
    times = owner.count(old)
    if count is not None and count >= 0:
        times = min(times, count)
    budget.spend(len(owner) + times * len(new))


def _joined(budget: Budget, separator: str, items: Iterable[Any] = (), *_: object) -> None:
    for item in items:
        budget.spend(len(separator) + budget.weigh(item))


def _split(budget: Budget, owner: str, separator: str | None = None, limit: int = -1, *_: object) -> None:
    times = sum(map(owner.count, _SPACES if separator is None else (separator,)))
    budget.spend_on_items(1 + (times if limit < 0 else min(times, limit)))


def _split_lines(budget: Budget, owner: str, *_: object) -> None:
    budget.spend_on_items(1 + owner.count("\n") + owner.count("\r"))


_SPACES = (" ", "\n", "\t", "\r")
"""Common whitespace. The results of splitting at other whitespace, which is rare, are counted afterwards."""
_STRING = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower "
    "isnumeric isspace istitle isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition "
    "rstrip startswith strip swapcase title upper"
)
_Check = Callable[..., None] | None
_METHODS: dict[type, dict[str, _Check]] = {
    str: {
        **dict.fromkeys(_STRING.split()),
        **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
        "replace": _replaced,
        "join": _joined,
        **dict.fromkeys(("split", "rsplit"), _split),
        "splitlines": _split_lines,
    },
    bytes: {"decode": None},
    int: {},
    float: {"is_integer": None},
    list: dict.fromkeys(("copy", "count", "index")),
    tuple: dict.fromkeys(("count", "index")),
    dict: dict.fromkeys(("copy", "get", "items", "keys", "values")),
}
OWNERS = (*_METHODS, type)


def check_method(budget: Budget, owner: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Raises TemplateRuntimeError for a method that is in no table, or whose result would be too large. Returns the
    arguments to call it with."""
    for kind, methods in _METHODS.items():
        if isinstance(owner, kind) and name in methods:
            if name == "join" and args:
                args = (list(Metered(args[0])), *args[1:])  # a generator can be read only once
            if (check := methods[name]) is not None:
                check(budget, owner, *args)
            return args
    raise TemplateRuntimeError(f"{type(owner).__name__}.{name} is not available in chat templates")


# ---- Filters and tests


def _metered(name: str) -> Function:
    """Jinja's filter of this name, with its arguments and result charged to the budget."""
    function: Function = JINJA_FILTERS[name]

    @wraps(function)  # keeps Jinja's attributes, which request additional arguments
    def call(*args: Any, **kwargs: Any) -> Any:
        budget = CURRENT.get()
        for value in (*args, *kwargs.values()):
            if name in _LISTING_FILTERS and isinstance(value, str):
                budget.spend_on_items(len(value))
            budget.weigh(value)  # unlike look_at, this refuses a namespace, which a filter would write out
            budget.look_at(value)
        result = function(*args, **kwargs)
        budget.spend_on(result)
        return result

    return call


def _metered_test(function: Any) -> Function:
    @wraps(function)
    def call(*args: Any) -> Any:
        budget = CURRENT.get()
        for value in args:
            budget.look_at(value)
        return function(*args)

    return call


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """transformers' filter, which writes plain JSON. Jinja's own filter escapes for HTML."""
    budget = CURRENT.get()
    weight = budget.weigh(value)
    budget.spend(weight)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, check_circular=False
    )
    if indent is None and separators is None and weight <= _MAX_AT_ONCE:
        return encoder.encode(value)
    if (len(indent) if isinstance(indent, str) else indent or 0) > 16:
        raise LimitExceeded("tojson: 'indent' must be at most 16 characters")
    pieces = []
    for piece in encoder.iterencode(value):
        budget.spend(len(piece))
        pieces.append(piece)
    return "".join(pieces)


@pass_environment
def _join(environment: Environment, value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    separator = text(d)
    get = make_attrgetter(environment, attribute)
    budget = CURRENT.get()
    pieces = []
    for item in Metered(value):
        budget.spend(len(separator))
        pieces.append(text(get(item)))
    return separator.join(pieces)


def _center(value: object, width: int = 80) -> str:
    CURRENT.get().spend(max(width, 0))
    return text(value).center(width)


def _replace(s: object, old: str, new: str, count: int | None = None) -> str:
    owner = text(s)
    _replaced(CURRENT.get(), owner, text(old), text(new), count)
    return owner.replace(text(old), text(new), -1 if count is None else count)


def _indent(s: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    lines = text(s).count("\n") + 1
    CURRENT.get().spend(lines * (width if isinstance(width, int) else len(width)))
    return str(JINJA_FILTERS["indent"](text(s), width, first, blank))


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if not -30 <= precision <= 30:
        raise LimitExceeded("round: 'precision' must be between -30 and 30")
    return float(JINJA_FILTERS["round"](value, precision, method))


def _batch(value: Iterable[Any], linecount: int, fill_with: object = None) -> list[list[Any]]:
    CURRENT.get().spend(max(linecount, 0))  # the last batch is filled up
    return list(JINJA_FILTERS["batch"](Metered(value), linecount, fill_with))


def _format(value: str, *args: object, **kwargs: object) -> str:
    check_percent(CURRENT.get(), value, args or kwargs)
    return value % (args or kwargs)


_METERED_FILTERS = (
    "abs capitalize count d default dictsort e escape first float groupby int items last length list lower map max min "
    "reject rejectattr reverse safe select selectattr sort string title trim truncate unique upper"
)
_LISTING_FILTERS = ("list", "sort", "groupby")
"""Filters that convert a text to a list of characters."""
FILTERS: dict[str, Function] = {
    **{name: _metered(name) for name in _METERED_FILTERS.split()},
    "batch": _batch,
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "tojson": _tojson,
}
TESTS: dict[str, Function] = {name: _metered_test(test) for name, test in JINJA_TESTS.items()}
