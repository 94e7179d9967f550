"""Pipelines that behave as Haystack's do, and a module `haystack` with the classes that the stand-in uses."""

import asyncio
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest


@dataclass
class StreamingChunk:
    content: str = ""
    tool_calls: Any = None
    tool_call_result: Any = None
    reasoning: Any = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class ToolCall:
    tool_name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass
class ChatMessage:
    role: str
    text: str = ""
    tool_calls: Sequence[ToolCall] = ()
    origin: ToolCall | None = None

    @classmethod
    def from_user(cls, text: str) -> "ChatMessage":
        return cls("user", text)

    @classmethod
    def from_system(cls, text: str) -> "ChatMessage":
        return cls("system", text)

    @classmethod
    def from_assistant(cls, text: str = "", tool_calls: Sequence[ToolCall] = ()) -> "ChatMessage":
        return cls("assistant", text, tool_calls)

    @classmethod
    def from_tool(cls, tool_result: str, origin: ToolCall) -> "ChatMessage":
        return cls("tool", tool_result, origin=origin)


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    package, dataclasses = ModuleType("haystack"), ModuleType("haystack.dataclasses")
    package.Pipeline = Pipeline  # type: ignore[attr-defined]
    for name in (StreamingChunk, ToolCall, ChatMessage):
        setattr(dataclasses, name.__name__, name)
    monkeypatch.setitem(sys.modules, "haystack", package)
    monkeypatch.setitem(sys.modules, "haystack.dataclasses", dataclasses)


class Generator:
    """A component that streams chunks, from threads only."""

    def __init__(self, chunks: Callable[[], Iterator[Any]]) -> None:
        self.chunks = chunks

    def run(self, query: str = "", streaming_callback: Any = None) -> dict[str, Any]:
        for chunk in self.chunks():
            if streaming_callback:
                streaming_callback(chunk)
        return {"replies": [query]}


class AsyncGenerator(Generator):
    """A component that streams chunks from the event loop as well."""

    async def run_async(self, query: str = "", streaming_callback: Any = None) -> dict[str, Any]:
        for chunk in self.chunks():
            if streaming_callback:
                await streaming_callback(chunk)
            await asyncio.sleep(0)
        return {"replies": [query]}


class Pipeline:
    """Runs its components one after the other."""

    def __init__(self, **components: Any) -> None:
        self.components = components
        self.included: Any = None

    def walk(self) -> Iterator[tuple[str, Any]]:
        yield from self.components.items()

    def run(self, data: dict[str, Any], include_outputs_from: Any = None) -> dict[str, Any]:
        self.included = include_outputs_from
        return {name: component.run(**data.get(name, {})) for name, component in self.components.items()}

    async def run_async(self, data: dict[str, Any], include_outputs_from: Any = None) -> dict[str, Any]:
        self.included = include_outputs_from
        return {name: await self._run(component, data.get(name, {})) for name, component in self.components.items()}

    async def _run(self, component: Any, inputs: dict[str, Any]) -> Any:
        if hasattr(component, "run_async"):
            return await component.run_async(**inputs)
        return await asyncio.to_thread(component.run, **inputs)


class Agent(AsyncGenerator):
    pass


def words(*texts: str) -> Callable[[], Iterator[StreamingChunk]]:
    return lambda: map(StreamingChunk, texts)


def tool_chunks() -> Iterator[StreamingChunk]:
    """A call, its result, a thought, and text."""
    call = SimpleNamespace(tool_name="weather", arguments='{"city": "Paris"}', id="call_1")
    yield StreamingChunk(tool_calls=[call])
    yield StreamingChunk(tool_calls=[SimpleNamespace(tool_name=None, arguments="not yet JSON", id=None)])
    origin = ToolCall("weather", {"city": "Paris"})
    yield StreamingChunk(tool_call_result=SimpleNamespace(origin=origin, result=["sunny"], error=False))
    yield StreamingChunk(reasoning=SimpleNamespace(reasoning_text="Nice.", extra={"id": 1}))
    yield StreamingChunk("It is sunny.")
