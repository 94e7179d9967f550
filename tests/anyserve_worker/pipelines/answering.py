"""Runs a pipeline as its process does, and sums up answers."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from anyserve_worker.pipelines.core.events import Arguments, Event, Finish, Reasoning, Refusal, Text, ToolCall, Usage
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline
from anyserve_worker.pipelines.core.request import ChatRequest

TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object"}}}]


def folder(settings: dict[str, Any], path: Path = Path("pipelines/model"), name: str = "model") -> Folder:
    return Folder(name, path, settings)


def chat(
    text: str = "Hi", *, model: str = "model", headers: dict[str, str] | None = None, **fields: Any
) -> ChatRequest:
    messages = fields.pop("messages", None) or [{"role": "user", "content": text}]
    body = {"model": model, "messages": messages, "stream": False, **fields}
    return ChatRequest(model, messages, body, headers=headers or {})


@asynccontextmanager
async def running(pipeline: Pipeline) -> AsyncIterator[list[Sequence[ModelState]]]:
    """Starts a pipeline; yields the list of what it reports."""
    reports: list[Sequence[ModelState]] = []
    await pipeline.start(lambda states: reports.append(list(states)))
    try:
        yield reports
    finally:
        await pipeline.close()


async def collect(pipeline: Pipeline, request: ChatRequest, seconds: float = 10) -> list[Event]:
    async with asyncio.timeout(seconds):
        return [event async for event in pipeline.answer(request)]


@dataclass
class Summary:
    """An answer without the cuts between its pieces."""

    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: list[tuple[str, str, str]] = field(default_factory=list)
    """Name, id and arguments."""
    usage: Usage | None = None
    finish: str = ""


def summary(events: Iterable[Event], choice: int = 0) -> Summary:
    result = Summary()
    for event in events:
        if isinstance(event, Usage):
            result.usage = event
        elif event.choice == choice:
            assert not result.finish, "an event after the end"
            _add(result, event)
    return result


def _add(result: Summary, event: Event) -> None:
    match event:
        case Text(text):
            result.text += text
        case Reasoning(text):
            result.reasoning += text
        case Refusal(text):
            result.refusal += text
        case ToolCall(name, id):
            result.calls.append((name, id, ""))
        case Arguments(text, number):
            name, id, arguments = result.calls[-1 if number is None else number]
            result.calls[-1 if number is None else number] = (name, id, arguments + text)
        case Finish(reason):
            result.finish = reason


async def abandon(pipeline: Pipeline, request: ChatRequest, reached: asyncio.Event | None = None) -> None:
    """Begins an answer and leaves, as the host does when the client has left: once `reached` is set, or, without it,
    after the first event."""

    async def take() -> None:
        events = pipeline.answer(request)
        try:
            async for _ in events:
                begun.set()
        finally:
            await events.aclose()

    begun = asyncio.Event()
    task = asyncio.create_task(take())
    await asyncio.wait_for((reached or begun).wait(), 60)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
