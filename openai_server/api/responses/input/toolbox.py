"""The tools that an answer may call, under the names that the model reads. PURE.

A prompt has one flat list of tools. A tool in a namespace gets a flat name there, such as `crm__find` for `find` in
`crm`; the response has its own name and namespace again.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from openai_server.api.responses.input.tools import (
    AnyTool,
    CallableTool,
    FlatCustomTool,
    FlatFunctionTool,
    FreeInput,
    NamespaceTool,
)
from openai_server.api.responses.settings import CalledTool
from openai_server.api.schemas.bounds import MAX_TOOLS
from openai_server.core.errors import AboveLimit, InvalidRequest

MAX_NAME = 64
"""Characters of a tool's name in OpenAI's API."""
_DIGEST = 8
"""Hexadecimal digits that make a flat name unique."""
_OTHER_CHARACTERS = re.compile(r"[^a-zA-Z0-9_-]")
Key = tuple[str | None, str]
"""Namespace and name of a tool."""


class ToolGroup(NamedTuple):
    """The tools of one field."""

    field: str
    tools: Sequence[AnyTool]
    may_replace: bool = False
    """Whether its tools replace earlier ones of the same name, which is otherwise an error."""


@dataclass(frozen=True, slots=True)
class _Entry:
    key: Key
    tool: CallableTool
    field: str
    """Its path in the request."""
    description: str | None
    """With that of its namespace, if it is the first one there."""


class Toolbox:
    def __init__(self, entries: Sequence[_Entry]) -> None:
        self._names = _flat_names([entry.key for entry in entries])
        self._keys: dict[str, list[Key]] = defaultdict(list)
        """The tools of each short name."""
        for key in self._names:
            self._keys[key[1]].append(key)
        self.tools = [entry.tool.tool(self._names[entry.key], entry.description) for entry in entries]
        self.fields = [entry.field for entry in entries]
        """The path of each tool in the request."""
        self.called = {
            self._names[entry.key]: CalledTool(_kind(entry.tool), entry.tool.name, entry.key[0]) for entry in entries
        }
        """How a call is reported, by flat name."""

    def name(self, namespace: str | None, name: str) -> str:
        """The flat name for a call in the conversation, also of a tool that the request doesn't have."""
        if found := self.find(namespace, name):
            return found
        return name if namespace is None else flat_name(namespace, name, ())

    def find(self, namespace: str | None, name: str, kind: str | None = None) -> str | None:
        """The flat name of a tool of the request; None if there is none. Without a namespace, a name that a single
        namespace has is enough."""
        key = (namespace, name)
        keys = [key] if key in self._names or namespace is not None else self._keys.get(name, [])
        names = [flat for key in keys if (flat := self._names.get(key)) and kind in (None, self.called[flat].kind)]
        return names[0] if len(names) == 1 else None

    def in_namespace(self, namespace: str) -> list[str]:
        """The flat names of its tools."""
        return [flat for flat, tool in self.called.items() if tool.namespace == namespace]


def toolbox(groups: Iterable[ToolGroup]) -> Toolbox:
    """Raises InvalidRequest for two tools of one name, AboveLimit for too many tools."""
    entries: dict[Key, _Entry] = {}
    for group in groups:
        for entry in _entries(group):
            if entry.key in entries and not group.may_replace:
                raise InvalidRequest(f"'{entry.field}': another tool has the same name.", param=entry.field)
            entries[entry.key] = entry
            if len(entries) > MAX_TOOLS:
                raise AboveLimit(group.field, f"has too many tools, at most {MAX_TOOLS}", kind="array")
    return Toolbox(list(entries.values()))


def _flat_names(keys: Sequence[Key]) -> dict[Key, str]:
    taken = {name for namespace, name in keys if namespace is None}
    names = {}
    for key in keys:
        namespace, name = key
        names[key] = name if namespace is None else flat_name(namespace, name, taken)
        taken.add(names[key])
    return names


def flat_name(namespace: str, name: str, taken: Container[str]) -> str:
    """A name of the form that OpenAI's API allows. It depends only on its arguments, so that a growing conversation
    keeps its prefix."""
    joined = f"{namespace}__{name}"
    beginning = _OTHER_CHARACTERS.sub("_", joined[:MAX_NAME])
    flat, n = beginning, 0
    while (len(joined) > MAX_NAME and n == 0) or flat in taken:
        digest = hashlib.sha256(f"{namespace}\n{name}\n{n}".encode()).hexdigest()[:_DIGEST]
        flat = f"{beginning[: MAX_NAME - _DIGEST - 1]}_{digest}"
        n += 1
    return flat


def _entries(group: ToolGroup) -> Iterable[_Entry]:
    """The tools that a model can call, with their places in the request."""
    for i, tool in enumerate(group.tools):
        field = f"{group.field}[{i}]"
        if isinstance(tool, NamespaceTool):
            about = f"Tools in '{tool.name}': {tool.description}" if tool.description else ""
            for j, inner in enumerate(tool.tools):
                if _is_callable(inner):
                    # The first tool carries the namespace's description: the prompt has no other place for it.
                    description = "\n\n".join(filter(None, (inner.description, about))) or inner.description
                    yield _Entry((tool.name, inner.name), inner, f"{field}.tools[{j}]", description)
                    about = ""
        elif isinstance(tool, CallableTool) and _is_callable(tool):
            yield _Entry((None, tool.name), tool, field, tool.description)


def _is_callable(tool: CallableTool) -> bool:
    """Whether the model itself may call the tool, rather than only a program that it writes."""
    return tool.allowed_callers is None or "direct" in tool.allowed_callers


def _kind(tool: CallableTool) -> Literal["function", "custom"]:
    return "function" if isinstance(tool, FlatFunctionTool) else "custom"


# ---- For the response


def reported(tools: Sequence[AnyTool]) -> list[Mapping[str, Any]]:
    """The tools in the request's form, without those that this server doesn't have."""
    result: list[Mapping[str, Any]] = []
    for tool in tools:
        if isinstance(tool, NamespaceTool):
            named = {"type": "namespace", "name": tool.name, "description": tool.description or ""}
            result.append({**named, "tools": [_reported(inner) for inner in tool.tools]})
        elif isinstance(tool, CallableTool):
            result.append(_reported(tool))
    return result


def _reported(tool: CallableTool) -> dict[str, Any]:
    if isinstance(tool, FlatCustomTool):
        tool = replace(tool, format=tool.format or FreeInput())
        return {key: value for key, value in msgspec.to_builtins(tool).items() if value is not None}
    optional = {} if tool.allowed_callers is None else {"allowed_callers": tool.allowed_callers}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": tool.strict is True,
        **optional,
    }
