"""Wrappers that a test writes, and their answers."""

from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

from anyserve_worker.pipelines.core.events import Event, Text
from anyserve_worker.pipelines.core.pipeline import Folder, ModelState, Pipeline
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.wrappers import load

MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


def write_wrapper(parent: Path, *sources: str, name: str = "greeter", **settings: Any) -> Folder:
    """A folder whose pipeline_wrapper.py has these sources."""
    folder = Folder(name, parent / name, settings)
    folder.path.mkdir(exist_ok=True)
    (folder.path / "pipeline_wrapper.py").write_text("".join(map(dedent, sources)))
    return folder


async def started(folder: Folder) -> tuple[Pipeline, list[ModelState]]:
    pipeline = load(folder)
    reported: list[ModelState] = []
    await pipeline.start(reported.extend)
    return pipeline, reported


def request(
    body: Mapping[str, Any] | None = None, *, input_items: list[dict[str, Any]] | None = None, **fields: Any
) -> ChatRequest:
    body = {"model": "greeter", "messages": MESSAGES, "stream": True, **(body or {})}
    return ChatRequest(body["model"], body["messages"], body, input_items, **fields)


async def events(pipeline: Pipeline, chat_request: ChatRequest | None = None) -> list[Event]:
    return [event async for event in pipeline.answer(chat_request or request())]


async def text(pipeline: Pipeline, chat_request: ChatRequest | None = None) -> str:
    return "".join(event.text for event in await events(pipeline, chat_request) if isinstance(event, Text))
