"""Compiles the source of a chat template, and extracts the names that it uses from its syntax tree.

PURE. Jinja and Python's compiler can take time and memory out of proportion to a source: a thousand `include`s after a
thousand `set`s become 26 MB of Python. This module limits the size of the source; `template_compiler.py` runs it in a
process with limits on processor time and memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import CodeType

from jinja2 import TemplateError, TemplateRuntimeError, TemplateSyntaxError, meta, nodes

from openai_server.prompting.sandbox import SandboxedTemplates

MAX_SOURCE = 128 << 10
"""Characters of a template's source. The largest of well-known models have about 20,000."""
MAX_TOKENS = 12_000
"""Jinja tokens in a source, without white space. The largest of well-known models have about 2,500."""
_MAX_PROBLEM = 1000
"""Characters of an error message."""


@dataclass(frozen=True, slots=True)
class CompiledSource:
    code: CodeType
    variables: frozenset[str]
    """Variables that the template may read from its context."""
    roles: frozenset[str]
    """Values that the template compares the role of a message with."""
    mentions_tool_calls: bool
    words: "Words"


@dataclass(frozen=True, slots=True)
class Words:
    """Words of a template's source, which are searched for markup."""

    texts: frozenset[str]
    """All strings in the source."""
    attributes: frozenset[str]
    """All attribute names, as in `tool.name`."""
    cut_texts: frozenset[str]
    """Texts at which the template splits a string, or which it removes or replaces."""
    case_functions: frozenset[str]
    """Those of `upper` and `lower` that the template uses."""


def compile_source(source: str) -> CompiledSource:
    """Raises TemplateError above the limits. A hostile source can cause any other exception in Jinja and Python."""
    check_length(source)
    environment = SandboxedTemplates(raise_exception=_no_function, strftime_now=_no_function)
    if sum(1 for _ in islice(_tokens(environment, source), MAX_TOKENS + 1)) > MAX_TOKENS:
        raise TemplateRuntimeError(f"its source has more than {MAX_TOKENS} tokens")
    tree = environment.parse(source)
    roles, mentions_tool_calls = frozenset(_roles(tree)), _mentions(tree, "tool_calls")
    words = _words(tree)
    python = environment.python(tree)  # adds guards to the tree
    variables = _variables(environment, tree)
    return CompiledSource(compile(python, "<template>", "exec"), variables, roles, mentions_tool_calls, words)


def check_length(source: str) -> None:
    """Raises TemplateError."""
    if len(source) > MAX_SOURCE:
        raise TemplateRuntimeError(f"its source has {len(source)} characters; at most {MAX_SOURCE} are allowed")


def problem(error: BaseException) -> str:
    """A description of `error`, which Jinja or Python raised for a template. At most about 1000 characters."""
    if isinstance(error, TemplateSyntaxError):
        text = f"{error.message} (line {error.lineno})"
    elif isinstance(error, RecursionError):
        text = "it nests too deeply"
    elif isinstance(error, MemoryError):
        text = "it takes too much memory"
    elif isinstance(error, TemplateError):
        text = error.message or ""
    else:
        text = f"{type(error).__name__}: {error}"
    return text if len(text) <= _MAX_PROBLEM else text[:_MAX_PROBLEM] + "…"


def _no_function(*_: object) -> None:
    """A placeholder for a function of the environment: the compilation needs only its name."""


def _tokens(environment: SandboxedTemplates, source: str) -> Iterator[str]:
    return (kind for _, kind, _ in environment.lexer.tokeniter(source, None) if kind != "whitespace")


# ---- Names in the syntax tree


def _variables(environment: SandboxedTemplates, tree: nodes.Template) -> frozenset[str]:
    """Like `jinja2.meta.find_undeclared_variables`, but that would evaluate constants and replace them in the tree."""
    generator = meta.TrackingCodeGenerator(environment)
    generator.optimizer = None
    generator.visit(tree)
    return frozenset(generator.undeclared_identifiers)


def _mentions(tree: nodes.Template, key: str) -> bool:
    return any(node.attr == key for node in tree.find_all(nodes.Getattr)) or any(
        node.value == key for node in tree.find_all(nodes.Const)
    )


def _roles(tree: nodes.Template) -> Iterator[str]:
    for compare in tree.find_all(nodes.Compare):
        sides = [compare.expr, *(operand.expr for operand in compare.ops)]
        if any(_is_role(side) for side in sides):
            for side in sides:
                yield from _strings(side)
    for node in tree.find_all(nodes.Filter):
        if node.name in ("selectattr", "rejectattr") and len(node.args) == 3 and _is_constant(node.args[0], "role"):
            yield from _strings(node.args[2])


def _is_role(node: nodes.Node | None) -> bool:
    """Whether the expression is the role of a message, or a variable with that name, maybe with filters."""
    if isinstance(node, nodes.Filter):
        return _is_role(node.node)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return any(_is_constant(argument, "role") for argument in node.args[:1]) or _is_role(node.node.node)
    if isinstance(node, nodes.Getattr):
        return node.attr == "role"
    if isinstance(node, nodes.Getitem):
        return _is_constant(node.arg, "role")
    return isinstance(node, nodes.Name) and "role" in node.name


def _is_constant(node: nodes.Node, value: str) -> bool:
    return isinstance(node, nodes.Const) and node.value == value


def _strings(node: nodes.Node) -> Iterator[str]:
    if isinstance(node, nodes.Const) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, nodes.List | nodes.Tuple):
        for item in node.items:
            yield from _strings(item)


def _words(tree: nodes.Template) -> Words:
    return Words(
        texts=frozenset(_texts(tree)),
        attributes=frozenset(node.attr for node in tree.find_all(nodes.Getattr)),
        cut_texts=frozenset(_cut_texts(tree)),
        case_functions=frozenset(_CASES & {*_methods(tree), *(node.name for node in tree.find_all(nodes.Filter))}),
    )


def _texts(tree: nodes.Template) -> Iterator[str]:
    for data in tree.find_all(nodes.TemplateData):
        yield data.data
    for const in tree.find_all(nodes.Const):
        if isinstance(const.value, str) and const.value:
            yield const.value


_CASES = frozenset({"upper", "lower"})
_CUTTING_METHODS = frozenset({"split", "rsplit", "partition", "rpartition", "replace", "removeprefix", "removesuffix"})


def _methods(tree: nodes.Template) -> Iterator[str]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr):
            yield call.node.attr


def _cut_texts(tree: nodes.Template) -> Iterator[str]:
    """The first argument of each call that cuts a text, without single characters and whitespace."""
    constants: dict[str, set[str]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            constants.setdefault(assign.target.name, set()).update(_strings(assign.node))
    calls = [(call.node.attr, call.args) for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr)]
    calls += [(node.name, node.args) for node in tree.find_all(nodes.Filter)]
    for name, args in calls:
        if name in _CUTTING_METHODS and args:
            cut = args[0]
            texts = constants.get(cut.name, ()) if isinstance(cut, nodes.Name) else _strings(cut)
            yield from (text for text in texts if len(text.strip()) > 1)
