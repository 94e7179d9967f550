"""Compiles the source of a chat template, and reads from its syntax tree which names it knows.

PURE. Jinja and Python's compiler can take time and memory out of proportion to a source: a thousand `include`s behind a
thousand `set`s become 26 MB of Python. The limits that can be counted are here; `template_compiler.py` runs this module
in a process with limits of processor time and memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from types import CodeType

from jinja2 import TemplateError, TemplateRuntimeError, TemplateSyntaxError, meta, nodes

from openai_server.prompting.sandbox import SandboxedTemplates

MAX_SOURCE = 128 << 10
"""Characters of a template's source. The largest of well-known models have some 20,000."""
MAX_TOKENS = 12_000
"""Tokens of Jinja's language in a source, without white space. The largest of well-known models have some 2,500."""
_MAX_PROBLEM = 1000
"""Characters of an error message that are passed on."""


@dataclass(frozen=True, slots=True)
class CompiledSource:
    code: CodeType
    variables: frozenset[str]
    """Variables that the template may read from its context."""
    roles: frozenset[str]
    """Values with which the template compares the role of a message."""
    mentions_tool_calls: bool
    words: "Words"


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a template's source, where markup is looked for."""

    texts: frozenset[str]
    """All strings."""
    attributes: frozenset[str]
    """All names that it looks up in an object by themselves, as in `tool.name`."""
    removed: frozenset[str]
    """Texts at which it cuts a string, or which it replaces."""
    changes_case: frozenset[str]
    """Which of `upper` and `lower` it uses."""


def compile_source(source: str) -> CompiledSource:
    """Raises TemplateError above the limits, and whatever a hostile source makes Jinja and Python raise."""
    check_length(source)
    environment = SandboxedTemplates(raise_exception=_no_function, strftime_now=_no_function)
    if sum(1 for _ in islice(_tokens(environment, source), MAX_TOKENS + 1)) > MAX_TOKENS:
        raise TemplateRuntimeError(f"its source has more than {MAX_TOKENS} tokens")
    tree = environment.parse(source)
    roles, mentions_tool_calls = frozenset(_roles(tree)), _mentions(tree, "tool_calls")
    words = _words(tree)
    python = environment.python(tree)  # from here on, the tree has guards in it
    variables = _variables(environment, tree)
    return CompiledSource(compile(python, "<template>", "exec"), variables, roles, mentions_tool_calls, words)


def check_length(source: str) -> None:
    """Raises TemplateError."""
    if len(source) > MAX_SOURCE:
        raise TemplateRuntimeError(f"its source has {len(source)} characters; at most {MAX_SOURCE} are allowed")


def problem(error: BaseException) -> str:
    """What is wrong with a template that made Jinja or Python raise `error`; at most some 1000 characters."""
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
    """Stands for a function of the environment: only its name matters while compiling."""


def _tokens(environment: SandboxedTemplates, source: str) -> Iterator[str]:
    return (kind for _, kind, _ in environment.lexer.tokeniter(source, None) if kind != "whitespace")


# ---- From the syntax tree


def _variables(environment: SandboxedTemplates, tree: nodes.Template) -> frozenset[str]:
    """As `jinja2.meta.find_undeclared_variables`, which would evaluate constants, and replace them in the tree."""
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
    for chosen in tree.find_all(nodes.Filter):
        if chosen.name in ("selectattr", "rejectattr") and len(chosen.args) == 3 and _is(chosen.args[0], "role"):
            yield from _strings(chosen.args[2])


def _is_role(node: nodes.Node | None) -> bool:
    """Of a message, or a variable that is called so; in lower case, perhaps."""
    if isinstance(node, nodes.Filter):
        return _is_role(node.node)
    if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
        return any(_is(argument, "role") for argument in node.args[:1]) or _is_role(node.node.node)
    if isinstance(node, nodes.Getattr):
        return node.attr == "role"
    if isinstance(node, nodes.Getitem):
        return _is(node.arg, "role")
    return isinstance(node, nodes.Name) and "role" in node.name


def _is(node: nodes.Node, value: str) -> bool:
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
        attributes=frozenset(found.attr for found in tree.find_all(nodes.Getattr)),
        removed=frozenset(_removed(tree)),
        changes_case=frozenset(_CASES & {*_methods(tree), *(found.name for found in tree.find_all(nodes.Filter))}),
    )


def _texts(tree: nodes.Template) -> Iterator[str]:
    for data in tree.find_all(nodes.TemplateData):
        yield data.data
    for const in tree.find_all(nodes.Const):
        if isinstance(const.value, str) and const.value:
            yield const.value


_CASES = frozenset({"upper", "lower"})
_CUTS = frozenset({"split", "rsplit", "partition", "rpartition", "replace", "removeprefix", "removesuffix"})


def _methods(tree: nodes.Template) -> Iterator[str]:
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Getattr):
            yield call.node.attr


def _removed(tree: nodes.Template) -> Iterator[str]:
    """The first argument of each call that cuts a text; single characters and whitespace are left out."""
    constants: dict[str, set[str]] = {}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name):
            constants.setdefault(assign.target.name, set()).update(_strings(assign.node))
    calls = [(call.node.attr, call.args) for call in tree.find_all(nodes.Call) if isinstance(call.node, nodes.Getattr)]
    calls += [(found.name, found.args) for found in tree.find_all(nodes.Filter)]
    for name, args in calls:
        if name in _CUTS and args:
            cut = args[0]
            texts = constants.get(cut.name, ()) if isinstance(cut, nodes.Name) else _strings(cut)
            yield from (text for text in texts if len(text.strip()) > 1)
