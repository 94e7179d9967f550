"""The stand-in's streaming generators yield what hayhooks' do, and end the pipeline with the stream."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncGenerator as AsyncIterable
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from anyserve_worker.pipelines.wrappers.standin import async_streaming_generator, streaming_generator
from anyserve_worker.pipelines.wrappers.standin.streaming import WINDOW
from tests.anyserve_worker.pipelines.wrappers import haystack
from tests.anyserve_worker.pipelines.wrappers.haystack import (
    Agent,
    AsyncGenerator,
    Generator,
    Pipeline,
    StreamingChunk,
    tool_chunks,
    words,
)

Items = Callable[..., Any]


async def from_thread(pipeline: Any, **options: Any) -> list[Any]:
    return await asyncio.to_thread(lambda: list(streaming_generator(pipeline, **options)))


async def from_loop(pipeline: Any, **options: Any) -> list[Any]:
    return [item async for item in async_streaming_generator(pipeline, **options)]


both = pytest.mark.parametrize("items", [from_thread, from_loop])


@pytest.fixture(autouse=True)
def _haystack(monkeypatch: pytest.MonkeyPatch) -> None:
    haystack.install(monkeypatch)


def texts(items: list[Any]) -> list[str]:
    return [item.content if isinstance(item, StreamingChunk) else item for item in items]


@both
async def test_the_last_component_streams(items: Items) -> None:
    pipeline = Pipeline(first=AsyncGenerator(words("no")), second=AsyncGenerator(words("a", "b")), third=object)
    pipeline.components["third"] = AsyncSilent()
    arguments = {"second": {"query": "q"}}
    assert texts(await items(pipeline, pipeline_run_args=arguments)) == ["a", "b"]
    assert arguments == {"second": {"query": "q"}}


class AsyncSilent:
    """A component that can't stream."""

    def run(self) -> dict[str, Any]:
        return {}


@both
@pytest.mark.parametrize(
    ("chosen", "variable", "expected"),
    [
        ("all", "", ["a", "b", "c"]),
        (["first", "third"], "", ["a", "c"]),
        (None, "all", ["a", "b", "c"]),
        (None, "first, second", ["a", "b"]),
        (None, "", ["c"]),
    ],
)
async def test_other_components_may_stream(
    items: Items, chosen: Any, variable: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HAYHOOKS_STREAMING_COMPONENTS", variable)
    components = {name: AsyncGenerator(words(text)) for name, text in (("first", "a"), ("second", "b"), ("third", "c"))}
    assert texts(await items(Pipeline(**components), streaming_components=chosen)) == expected


@both
async def test_an_agent_streams(items: Items) -> None:
    assert texts(await items(Agent(words("a", "b")), pipeline_run_args={"query": "q"})) == ["a", "b"]


@both
async def test_callbacks_are_called_and_their_results_yielded_first(items: Items) -> None:
    calls: list[Any] = []

    def called(name: str, result: Any) -> Callable[..., Any]:
        def callback(*arguments: Any) -> Any:
            calls.append((name, *arguments))
            return result

        return callback

    result = await items(
        Pipeline(llm=AsyncGenerator(tool_chunks)),
        pipeline_run_args={"llm": {"query": "q"}},
        on_tool_call_start=called("start", "calling"),
        on_tool_call_end=called("end", ["called", "shown"]),
        on_reasoning=called("reasoning", None),
        on_pipeline_end=called("finished", "Sources: none"),
    )
    assert calls == [
        ("start", "weather", {"city": "Paris"}, "call_1"),
        ("end", "weather", {"city": "Paris"}, "['sunny']", False),
        ("reasoning", "Nice.", {"id": 1}),
        ("finished", {"llm": {"replies": ["q"]}}),
    ]
    assert texts(result) == ["calling", "", "", "called", "shown", "", "", "It is sunny.", "Sources: none"]


@both
async def test_an_error_of_a_callback_is_logged(items: Items, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*arguments: Any) -> Any:
        raise ValueError("secret")

    failing = {f"on_{name}": fail for name in ("tool_call_start", "tool_call_end", "reasoning", "pipeline_end")}
    assert "It is sunny." in texts(await items(Pipeline(llm=AsyncGenerator(tool_chunks)), **failing))
    assert [record.getMessage() for record in caplog.records] == ["a callback of a stream failed: ValueError"] * 4


@both
async def test_outputs_of_other_components_are_included(items: Items) -> None:
    pipeline = Pipeline(llm=AsyncGenerator(words("a")))
    await items(pipeline, include_outputs_from={"llm"})
    assert pipeline.included == {"llm"}


@both
async def test_an_error_of_the_pipeline_is_raised_after_its_chunks(items: Items) -> None:
    def chunks() -> Iterator[StreamingChunk]:
        yield StreamingChunk("a")
        raise KeyError("of the pipeline")

    seen: list[Any] = []
    with pytest.raises(KeyError, match="of the pipeline"):
        await items(Pipeline(llm=AsyncGenerator(chunks)), on_pipeline_end=seen.append)
    assert not seen


@both
async def test_pipelines_that_cannot_stream_are_refused_at_once(items: Items) -> None:
    with pytest.raises(ValueError, match="no component of the pipeline can stream"):
        await items(Pipeline(silent=AsyncSilent()))
    with pytest.raises(TypeError, match="not a str"):
        await items("pipeline")


async def test_components_that_block_need_permission_to_stream_from_threads() -> None:
    pipeline = Pipeline(llm=Generator(words("a", "b")))
    with pytest.raises(ValueError, match="Generator has no run_async"):
        async_streaming_generator(pipeline)
    assert texts(await from_loop(pipeline, allow_sync_streaming_callbacks=True)) == ["a", "b"]


async def test_events_of_the_wrapper_are_merged_into_the_stream() -> None:
    events: asyncio.Queue[Any] = asyncio.Queue()
    events.put_nowait("event")
    items = await from_loop(Pipeline(llm=AsyncGenerator(words("a"))), external_event_queue=events)
    assert sorted(texts(items)) == ["a", "event"]
    blocking: queue.Queue[Any] = queue.Queue()
    blocking.put("event")
    items = await from_thread(Pipeline(llm=Generator(words("a"))), external_event_queue=blocking)
    assert sorted(texts(items)) == ["a", "event"]


# ---- The end of a stream


class Endless:
    """Chunks without an end. `ended` is set when they have ended all the same."""

    def __init__(self) -> None:
        self.n_chunks = 0
        self.ended = threading.Event()

    def __call__(self) -> Iterator[StreamingChunk]:
        try:
            while True:
                self.n_chunks += 1
                yield StreamingChunk("more")
        finally:
            self.ended.set()


def test_a_pipeline_in_a_thread_ends_with_the_stream() -> None:
    chunks = Endless()
    stream = streaming_generator(Pipeline(llm=Generator(chunks)))
    next(stream)
    time.sleep(0.05)
    assert chunks.n_chunks <= WINDOW + 2  # it waits for its consumer
    stream.close()
    assert chunks.ended.wait(20)


@pytest.mark.parametrize("component", [Generator, AsyncGenerator])
async def test_a_pipeline_of_the_loop_ends_with_the_stream(component: type[Generator]) -> None:
    chunks = Endless()
    stream = async_streaming_generator(Pipeline(llm=component(chunks)), allow_sync_streaming_callbacks=True)
    await anext(stream)
    await asyncio.sleep(0.05)
    assert chunks.n_chunks <= WINDOW + 2
    await stream.aclose()
    assert await asyncio.to_thread(chunks.ended.wait, 20)
    assert not [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]


@pytest.mark.parametrize("component", [Generator, AsyncGenerator])
async def test_a_shielded_pipeline_goes_on_without_its_consumer(component: type[Generator]) -> None:
    ended = threading.Event()

    def chunks() -> Iterator[StreamingChunk]:
        yield from map(StreamingChunk, ["a"] * 3 * WINDOW)
        ended.set()

    stream: AsyncIterable[Any] = async_streaming_generator(
        Pipeline(llm=component(chunks)), allow_sync_streaming_callbacks=True, shield_pipeline_task=True
    )
    await anext(stream)
    await stream.aclose()
    assert await asyncio.to_thread(ended.wait, 20)
