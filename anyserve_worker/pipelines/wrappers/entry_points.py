"""Finds what a wrapper module answers with: methods of its class, or functions."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from anyserve_worker.pipelines.core.errors import SetupError
from protos import contract

CLASS = "PipelineWrapper"
METHODS = {
    contract.TASK_CHAT: ("run_chat_completion_async", "run_chat_completion"),
    contract.TASK_RESPONSES: ("run_response_async", "run_response"),
}
"""Names by task; the first that exists is used."""
KEYWORDS = {
    contract.TASK_CHAT: ("model", "messages", "body"),
    contract.TASK_RESPONSES: ("model", "input_items", "body"),
}
HEADERS = "headers"
BASE_CLASS = "BasePipelineWrapper"


@dataclass(frozen=True, slots=True)
class EntryPoint:
    function: Callable[..., Any]
    parameters: frozenset[str]
    """Keywords to call it with."""

    @property
    def blocks(self) -> bool:
        """Whether a call computes; otherwise it returns a coroutine or an asynchronous generator at once."""
        return not (inspect.iscoroutinefunction(self.function) or inspect.isasyncgenfunction(self.function))


@dataclass(frozen=True, slots=True)
class Wrapper:
    setup: Callable[[], Any] | None
    entry_points: Mapping[str, EntryPoint]
    """By task."""
    description: str
    """First line of the docstring, or empty."""


def find_wrapper(module: ModuleType) -> Wrapper:
    """Creates the object of the module's class, if it has a class. Raises SetupError, and what the class raises."""
    wrapper_class = getattr(module, CLASS, None)
    owner: Any = module if wrapper_class is None else wrapper_class()
    found = {
        task: _entry_point(task, function)
        for task, names in METHODS.items()
        if (function := next(filter(None, (_own(owner, name) for name in names)), None))
    }
    if not found:
        names = ", ".join(name for names in METHODS.values() for name in reversed(names))
        raise SetupError(f"{module.__file__} has no chat model: it must define {names}")
    documented = wrapper_class or module
    description = (inspect.cleandoc(documented.__doc__ or "")).partition("\n")[0]
    return Wrapper(_own(owner, "setup"), found, description)


def _own(owner: Any, name: str) -> Callable[..., Any] | None:
    """The method, unless it is the one that hayhooks' base class has."""
    method = getattr(owner, name, None)
    if not callable(method):
        return None
    bases = [base for base in type(owner).__mro__ if base.__name__ == BASE_CLASS]
    stubs = [base.__dict__.get(name) for base in bases]
    return None if getattr(method, "__func__", method) in stubs else method


def _entry_point(task: str, function: Callable[..., Any]) -> EntryPoint:
    parameters = inspect.signature(function).parameters.values()
    named = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    required = {p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    values = KEYWORDS[task]
    if unknown := sorted(required - (named & {*values, HEADERS})):
        code = inspect.unwrap(function).__code__
        raise SetupError(
            f"{code.co_filename}:{code.co_firstlineno}: {function.__name__} is called with the keywords "
            f"{', '.join(values)}, and {HEADERS} if it has that parameter; it can't require {', '.join(unknown)}"
        )
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        named |= set(values)
    return EntryPoint(function, frozenset(named & {*values, HEADERS}))
