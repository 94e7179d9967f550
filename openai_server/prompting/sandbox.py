"""Jinja's immutable sandbox, with a budget for every operation that can take disproportionate time or memory.

PURE. Jinja's own sandbox prevents a template from reaching Python, but doesn't limit its time or memory. Here

- each loop, concatenation, comparison and slice in the template's syntax tree is wrapped in a `guard_` method;
- calls, operators and output pass through the sandbox's own hooks, which charge the budget too;
- only the filters, tests and methods of built-in types in `functions.py` are available.
"""

import re
from collections.abc import Iterable
from types import CodeType
from typing import Any

from jinja2 import Template, TemplateRuntimeError, nodes, pass_context
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from openai_server.prompting.functions import (
    FILTERS,
    MAX_WIDTH,
    OWNERS,
    TESTS,
    Function,
    check_method,
    check_percent,
    text,
)
from openai_server.prompting.limits import CURRENT, LimitExceeded, Metered, check_integers

MAX_PYTHON = 1 << 20
"""Characters of the Python code that Jinja generates for a template. The largest of well-known models have 60,000."""


class _CodeGenerator(CodeGenerator):
    """Raises if the code becomes too long: some statements write all variables, so its length can be quadratic."""

    _n_written = 0

    def write(self, x: str) -> None:
        self._n_written += len(x)
        if self._n_written > MAX_PYTHON:
            raise TemplateRuntimeError(f"it becomes more than {MAX_PYTHON} characters of Python code")
        super().write(x)


class SandboxedTemplates(ImmutableSandboxedEnvironment):
    """An environment that generates guarded Python. Its templates run only while `limits.CURRENT` is set."""

    code_generator_class = _CodeGenerator
    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, **functions: Function) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            # Constant folding would evaluate expressions during compilation, without a budget.
            optimized=False,
            finalize=_write,
            extensions=["jinja2.ext.loopcontrols", GenerationTag],
        )
        self.filters = dict(FILTERS)
        self.tests = dict(TESTS)
        self.globals = {"range": self.globals["range"], "dict": dict, "namespace": Namespace, **functions}

    def python(self, tree: nodes.Template) -> str:
        """The Python code of a template. Adds the guards to its syntax tree. Raises TemplateError."""
        guarded: nodes.Template = _Guard().visit(tree)
        guarded.set_environment(self)
        return self.compile(guarded, raw=True)

    def template(self, code: CodeType) -> Template:
        """The template of the compiled result of `python`."""
        return Template.from_code(self, code, self.make_globals(None))

    # ---- Guards, called by the generated code

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
        elif owner is not None and isinstance(owner, OWNERS):
            budget.look_at(owner)
            args = check_method(budget, owner, function.__name__, args)
        result = super().call(context, function, *args, **kwargs)
        budget.spend_on(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        budget = CURRENT.get()
        if operator == "+":
            budget.spend_on(left)
            budget.spend_on(right)
        elif operator == "%" and isinstance(left, str | bytes):
            check_percent(budget, left, right)
        elif operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(times, int) and times > 0:
                    budget.spend_on(sequence, times)
        check_integers(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Function | None:
        """`str.format` with limits on sizes. (`format_map` is in no table, so calls of it are refused.)"""
        owner = getattr(value, "__self__", None)
        if not isinstance(owner, str) or getattr(value, "__name__", "") != "format":
            return None

        def format_(*args: Any, **kwargs: Any) -> str:
            return _Formatter(self).vformat(owner, args, kwargs)

        return format_


class GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks the assistant's text for training. Here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012  # as declared by Jinja

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        return nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)


class _Guard(NodeTransformer):
    """Adds the guards to a syntax tree."""

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
        """Guards the key of a dict, since hashing a tuple hashes all its contents."""
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
        """Turns literal text into constants, since Jinja writes literal text without `finalize`, which charges it."""
        return nodes.Const(node.data, lineno=node.lineno)


def _operand(node: nodes.Expr) -> nodes.Expr:
    return node if isinstance(node, nodes.Const) else _guarded("guard_operand", node)


def _guarded(guard: str, *values: nodes.Node) -> nodes.Call:
    line = values[0].lineno
    return nodes.Call(nodes.EnvironmentAttribute(guard, lineno=line), list(values), [], None, None, lineno=line)


# ---- Output


@pass_context  # prevents the compiler from writing constants directly
def _write(_: Context, value: object) -> str:
    return text(value)


class _Formatter(SandboxedFormatter):
    def format_field(self, value: object, format_spec: str) -> str:
        if any(int(digits) > MAX_WIDTH for digits in re.findall(r"\d+", format_spec)):
            raise LimitExceeded(f"a field was wider than {MAX_WIDTH}")
        CURRENT.get().spend(len(format_spec) + MAX_WIDTH * bool(format_spec))
        return format(value, format_spec) if format_spec else text(value)

    def convert_field(self, value: Any, conversion: str | None) -> Any:
        CURRENT.get().spend(CURRENT.get().weigh(value) if conversion else 0)
        return super().convert_field(value, conversion)
