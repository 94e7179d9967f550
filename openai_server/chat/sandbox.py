"""Jinja's immutable sandbox, with every operation that can take time or memory out of proportion under a budget.

PURE. Jinja's own sandbox keeps a template from reaching Python; it does not keep it from looping or growing. Here

- each loop, concatenation, comparison and slice of the template's syntax tree is wrapped in a call of a `guard_`;
- calls, operators and output pass through the sandbox's own hooks, which do the same;
- filters, globals and methods of built-in types are those in the tables below and no others. The few whose result can
  be out of proportion to their arguments have their size worked out before they run.
"""

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from jinja2 import Environment, Template, TemplateRuntimeError, Undefined, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import FILTERS as JINJA_FILTERS
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.tests import TESTS as JINJA_TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from openai_server.chat.limits import CONTAINERS, CURRENT, Budget, LimitExceeded, Metered, check_integers

Function = Callable[..., Any]

_MAX_WIDTH = 9999
"""Of a field in a format string."""
_MAX_FORMAT = 4096
"""Characters of a %-format string."""


class SandboxedTemplates(ImmutableSandboxedEnvironment):
    """Compiles with `compiled`; what it compiles runs only while `limits.CURRENT` is set."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **functions: Function) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # Folding would evaluate constants while compiling, where there is no budget.
            optimized=False,
            finalize=_write,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = {"range": self.globals["range"], "dict": dict, "namespace": Namespace, **functions}

    def compiled(self, source: str) -> Template:
        """Raises TemplateSyntaxError, and whatever else a hostile source makes Python's compiler raise."""
        tree = _Guard().visit(self.parse(source))
        tree.set_environment(self)
        return self.from_string(tree)

    # ---- Guards, called by the syntax tree

    def guard_loop(self, items: Iterable[Any]) -> Metered:
        return Metered(items)

    def guard_concat(self, *values: object) -> str:
        return "".join([text(value) for value in values])

    def guard_operand(self, value: object) -> object:
        CURRENT.get().look_at(value)
        return value

    def guard_copy(self, value: object) -> object:
        CURRENT.get().spend_on(value)
        return value

    # ---- The sandbox's hooks

    def call(self, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        owner = getattr(function, "__self__", None)
        if owner is self:
            return function(*args)
        budget = CURRENT.get()
        budget.tick()
        for value in (*args, *kwargs.values()):
            budget.look_at(value)
        if isinstance(function, LoopContext):  # a step down in a recursive loop
            args = (Metered(args[0]), *args[1:]) if args else args
        elif owner is not None and isinstance(owner, _OWNERS):
            budget.look_at(owner)
            args = _check_method(budget, owner, function.__name__, args)
        result = super().call(context, function, *args, **kwargs)
        budget.spend_on(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = CURRENT.get()
        if operator == "+":
            budget.spend_on(left)
            budget.spend_on(right)
        elif operator == "%" and isinstance(left, str | bytes):
            _check_percent(budget, left, right)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and times > 0:
                    budget.spend_on(sequence, times)
        check_integers(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Function | None:
        """`str.format` with sizes checked. (`format_map` is in no table, and so is refused when called.)"""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") != "format":
            return None

        def format_(*args: Any, **kwargs: Any) -> str:
            return _Formatter(self).vformat(owner, args, kwargs)

        return format_


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}`: marks the assistant's text for training; here a scope, no more."""

    tags = {"generation"}  # noqa: RUF012  # as declared by Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Guard(NodeTransformer):
    """Puts the guards into a syntax tree."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _guarded("guard_loop", node.iter)
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _guarded("guard_concat", *node.nodes)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _operand(node.expr)
        for operand in node.ops:
            operand.expr = _operand(operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        """The key of a dict, which is hashed: all of it, if it is a tuple."""
        self.generic_visit(node)
        node.key = _operand(node.key)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            return _guarded("guard_copy", node)
        node.arg = _operand(node.arg)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Node:
        """Literal text is written past `finalize`, so that a loop over it would not be counted."""
        return nodes.Const(node.data, lineno=node.lineno)


def _operand(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _guarded("guard_operand", node)


def _guarded(guard: str, *values: nodes.Node) -> nodes.Call:
    line = values[0].lineno
    return nodes.Call(nodes.EnvironmentAttribute(guard, lineno=line), list(values), [], None, None, lineno=line)


# ---- Values to text


def text(value: object) -> str:
    """`str(value)`, for values that can be meant as text."""
    budget = CURRENT.get()
    if isinstance(value, CONTAINERS):
        budget.spend(budget.weigh(value))
    elif isinstance(value, str):
        budget.spend(len(value))
    elif not (value is None or isinstance(value, int | float | Undefined)):
        raise TemplateRuntimeError(f"a value of type {type(value).__name__} can't be written")
    return str(value)


@pass_context  # keeps the compiler from writing constants by itself
def _write(_: Context, value: object) -> str:
    return text(value)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: object, format_spec: str) -> str:
        if any(int(digits) > _MAX_WIDTH for digits in re.findall(r"\d+", format_spec)):
            raise LimitExceeded(f"a field was wider than {_MAX_WIDTH}")
        CURRENT.get().spend(len(format_spec) + _MAX_WIDTH * bool(format_spec))
        return format(value, format_spec) if format_spec else text(value)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        CURRENT.get().spend(CURRENT.get().weigh(value) if conversion else 0)
        return super().convert_field(value, conversion)


_WIDE = re.compile(r"%(?:\([^)]*\))?[^a-zA-Z%]*(?:\*|\d{5})")


def _check_percent(budget: Budget, template: str | bytes, values: object) -> None:
    if isinstance(template, bytes) or len(template) > _MAX_FORMAT or _WIDE.search(template):
        raise LimitExceeded("a format string was too long, or a field in it too wide")
    budget.spend((1 + template.count("%")) * (_MAX_WIDTH + budget.weigh(values)))


# ---- Methods of built-in types: which there are, and how large the result of some can be


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


_STRING = (
    "capitalize casefold count endswith find index isalnum isalpha isascii isdecimal isdigit isidentifier islower "
    "isnumeric isspace istitle isupper lower lstrip partition removeprefix removesuffix rfind rindex rpartition rsplit "
    "rstrip split splitlines startswith strip swapcase title upper"
)
_Check = Callable[..., None] | None
_METHODS: dict[type, dict[str, _Check]] = {
    str: {
        **dict.fromkeys(_STRING.split()),
        **dict.fromkeys(("center", "ljust", "rjust", "zfill"), _padded),
        "replace": _replaced,
        "join": _joined,
    },
    bytes: {"decode": None},
    int: {},
    float: {"is_integer": None},
    list: dict.fromkeys(("copy", "count", "index")),
    tuple: dict.fromkeys(("count", "index")),
    dict: dict.fromkeys(("copy", "get", "items", "keys", "values")),
}
_OWNERS = (*_METHODS, type)


def _check_method(budget: Budget, owner: Any, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Raises for a method that is in no table, or whose result would be too large. Gives the arguments to use."""
    for kind, methods in _METHODS.items():
        if isinstance(owner, kind) and name in methods:
            if name == "join" and args:
                args = (list(Metered(args[0])), *args[1:])  # a generator can be read only once
            if (check := methods[name]) is not None:
                check(budget, owner, *args)
            return args
    raise TemplateRuntimeError(f"{type(owner).__name__}.{name} is not available in chat templates")


# ---- Filters and tests


def _metered(function: Function) -> Function:
    """Of a filter whose result is in proportion to its arguments."""

    @wraps(function)  # keeps Jinja's marks of what else the filter wants to be passed
    def call(*args: Any, **kwargs: Any) -> Any:
        budget = CURRENT.get()
        for value in (*args, *kwargs.values()):
            budget.weigh(value)  # unlike look_at, refuses a namespace: a filter would write it out
            budget.look_at(value)
        result = function(*args, **kwargs)
        budget.spend_on(result)
        return result

    return call


def _tested(function: Any) -> Function:
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
    """As transformers has it: plain JSON, where Jinja's own would escape for HTML."""
    budget = CURRENT.get()
    budget.spend(budget.weigh(value))
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, check_circular=False
    )
    if indent is None and separators is None:
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
    _check_percent(CURRENT.get(), value, args or kwargs)
    return value % (args or kwargs)


_PROPORTIONATE = (
    "abs capitalize count d default dictsort e escape first float groupby int items last length list lower map max min "
    "reject rejectattr reverse safe select selectattr sort string title trim truncate unique upper"
)
FILTERS: dict[str, Function] = {
    **{name: _metered(JINJA_FILTERS[name]) for name in _PROPORTIONATE.split()},
    "batch": _batch,
    "center": _center,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "tojson": _tojson,
}
TESTS: dict[str, Function] = {name: _tested(test) for name, test in JINJA_TESTS.items()}
