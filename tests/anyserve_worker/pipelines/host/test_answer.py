"""Answers in the process: ends of choices, windows, cancellation, errors."""

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest

from anyserve_worker.pipelines.core import events
from anyserve_worker.pipelines.core.errors import InvalidInput, TooManyRequests
from anyserve_worker.pipelines.core.events import Event, Finish, Text, Usage
from anyserve_worker.pipelines.core.frames import WINDOW, WINDOW_BYTES, Frame, Frames
from anyserve_worker.pipelines.core.pipeline import Report
from anyserve_worker.pipelines.core.request import ChatRequest
from anyserve_worker.pipelines.host import answer as answer_module
from anyserve_worker.pipelines.host.answer import MAX_EVENT_CHARACTERS, Answer
from tests.anyserve_worker.fakes import WAIT_TIMEOUT

Generate = Callable[[ChatRequest], AsyncGenerator[Event, None]]


class Pipeline:
    def __init__(self, generate: Generate) -> None:
        self.answer = generate

    async def start(self, report: Report) -> None:
        """Has nothing to start."""

    async def close(self) -> None:
        """Has nothing to end."""


class Run:
    """An answer, and the frames that it has sent."""

    def __init__(self, generate: Generate, n: int = 1) -> None:
        self._reader = Frames()
        self.frames: list[Frame] = []
        fields = {"model": "m", "caller": "", "headers": {}, "streams": True, "messages": 1, "has_items": False}
        parts = [b'[{"role": "user"}]', json.dumps({"n": n}).encode()]
        request = Frame({"kind": "request", "number": 7, "has_body": True, **fields}, parts)
        self.answer = Answer("p", request, Pipeline(generate), self._send)

    def _send(self, data: bytes) -> None:
        self.frames += self._reader.push(data)

    async def end(self) -> "Run":
        async with asyncio.timeout(WAIT_TIMEOUT):
            await asyncio.wait((self.answer.task,))
        assert all(frame.header["number"] == 7 for frame in self.frames)
        assert [frame.header["kind"] for frame in self.frames[:-1]] == ["events"] * (len(self.frames) - 1)
        return self

    @property
    def events(self) -> list[Event]:
        return [events.decode(part) for frame in self.frames for part in frame.parts]

    @property
    def last(self) -> dict[str, Any]:
        return self.frames[-1].header


def yields(*items: Any) -> Generate:
    async def generate(_: ChatRequest) -> AsyncGenerator[Event, None]:
        for item in items:
            if isinstance(item, BaseException):
                raise item
            yield item

    return generate


async def test_the_last_frame_has_the_end_of_the_choice_and_the_usage() -> None:
    run = await Run(yields(Text("a"), Finish("length"), Usage(1, 2))).end()
    assert [len(frame.parts) for frame in run.frames] == [1, 2]
    assert run.events == [Text("a"), Finish("length"), Usage(1, 2)]
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "cached_tokens": None, "reasoning_tokens": None}
    assert (run.last["kind"], run.last["finish_reasons"], run.last["usage"]) == ("end", ["length"], usage)


@pytest.mark.parametrize("wrong", [Usage(-1, 2), Usage(1, 2**31), Usage(1, True), Usage(1, 2, cached_tokens=-3)])
async def test_counts_that_no_client_could_read_are_left_out(wrong: Usage) -> None:
    run = await Run(yields(Text("a"), wrong, Finish("stop"))).end()
    assert (run.events, run.last["usage"]) == ([Text("a"), Finish("stop")], None)


async def test_choices_without_an_end_end_with_stop() -> None:
    run = await Run(yields(Text("a", 1), Finish("length", 1), Text("b")), n=3).end()
    assert run.events == [Text("a", 1), Finish("length", 1), Text("b"), Finish("stop", 0), Finish("stop", 2)]
    assert (await Run(yields()).end()).events == [Finish("stop")]


async def test_events_after_the_end_of_their_choice_are_dropped() -> None:
    run = await Run(yields(Finish("stop"), Text("late"), Finish("length"))).end()
    assert run.events == [Finish("stop")]


async def test_a_generator_that_goes_on_after_the_last_choice_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_module, "END_SECONDS", 0.05)
    closed = False

    async def generate(_: ChatRequest) -> AsyncGenerator[Event, None]:
        nonlocal closed
        try:
            yield Finish("stop")
            await asyncio.Event().wait()
        finally:
            closed = True

    run = await Run(generate).end()
    assert (run.last["kind"], run.events, closed) == ("end", [Finish("stop")], True)


@pytest.mark.parametrize("wrong", ["text", None, Text("x", choice=1), Finish(choice=-1), ValueError("a secret")])
async def test_anything_else_is_an_internal_error(wrong: Any, caplog: pytest.LogCaptureFixture) -> None:
    run = await Run(yields(Text("a"), wrong)).end()
    assert (run.last["kind"], run.last["status"]) == ("error", "INTERNAL")
    assert run.last["message"] == "The pipeline 'p' failed."
    assert caplog.records[0].exc_info


@pytest.mark.parametrize("raised", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), GeneratorExit()])
async def test_no_exception_of_a_pipeline_ends_the_process(raised: BaseException) -> None:
    run = await Run(yields(raised)).end()
    assert (run.last["kind"], run.last["status"]) == ("error", "INTERNAL")


async def test_an_error_of_a_pipeline_keeps_its_details() -> None:
    run = await Run(yields(InvalidInput("stop is too long", field="stop"))).end()
    fields = [run.last[name] for name in ("status", "message", "tensor", "field", "retry_after")]
    assert fields == ["INVALID_ARGUMENT", "stop is too long", "body", "stop", None]
    run = await Run(yields(TooManyRequests("later", retry_after=1.5))).end()
    fields = [run.last[name] for name in ("status", "message", "tensor", "field", "retry_after")]
    assert fields == ["RESOURCE_EXHAUSTED", "later", "", "", 1.5]


async def test_long_texts_are_split() -> None:
    text = "ä" * (2 * MAX_EVENT_CHARACTERS + 1)
    run = await Run(yields(Text(text))).end()
    texts = [event.text for event in run.events if isinstance(event, Text)]
    assert (len(texts), "".join(texts)) == (3, text)


async def test_a_full_window_makes_the_generator_wait() -> None:
    n_yielded = 0

    async def generate(_: ChatRequest) -> AsyncGenerator[Event, None]:
        nonlocal n_yielded
        while n_yielded < 2 * WINDOW:
            n_yielded += 1
            yield Text("x")

    run = Run(generate)
    await asyncio.sleep(0.05)
    assert (len(run.events), n_yielded) == (WINDOW, WINDOW + 1)
    run.answer.acknowledge(10)
    await asyncio.sleep(0.05)
    assert (len(run.events), n_yielded) == (WINDOW + 10, WINDOW + 11)
    run.answer.acknowledge(WINDOW)
    await run.end()
    assert len(run.events) == 2 * WINDOW + 1


async def test_the_bytes_of_a_window_are_limited_too() -> None:
    n_texts = 2 * WINDOW_BYTES // MAX_EVENT_CHARACTERS
    run = Run(yields(Text("x" * MAX_EVENT_CHARACTERS * n_texts)))
    await asyncio.sleep(0.05)
    n_sent = len(run.events)
    assert sum(len(part) for frame in run.frames for part in frame.parts) >= WINDOW_BYTES
    assert n_sent <= WINDOW_BYTES // MAX_EVENT_CHARACTERS + 1
    run.answer.acknowledge(1)
    await asyncio.sleep(0.05)
    assert len(run.events) == n_sent + 1
    run.answer.acknowledge(n_sent)
    await run.end()
    assert len(run.events) == n_texts + 1


@pytest.mark.parametrize("turns", [0, 1, 5])
async def test_a_cancelled_answer_closes_its_generator_and_ends(turns: int) -> None:
    begun, closed = 0, 0

    async def generate(_: ChatRequest) -> AsyncGenerator[Event, None]:
        nonlocal begun, closed
        begun += 1
        try:
            yield Text("a")
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed += 1

    run = Run(generate)
    for _ in range(turns):
        await asyncio.sleep(0)
    run.answer.cancel()
    run.answer.cancel()
    await run.end()
    assert (run.last["kind"], run.last["finish_reasons"], closed) == ("end", [], begun)


async def test_a_generator_that_ignores_its_cancellation_is_closed_later() -> None:
    async def generate(_: ChatRequest) -> AsyncGenerator[Event, None]:
        yield Text("a")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)
        yield Text("ignored")
        yield Text("never")

    run = Run(generate)
    await asyncio.sleep(0.01)
    run.answer.cancel()
    await run.end()
    assert run.last["kind"] == "end"


class Lost(TooManyRequests):
    status = "LOST"


class Unprintable(TooManyRequests):
    def __str__(self) -> str:
        raise ValueError("no text")


class Incomplete(TooManyRequests):
    def __init__(self) -> None:
        Exception.__init__(self, "x")


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("x", field=5),  # type: ignore[arg-type]
        TooManyRequests("x", retry_after="soon"),  # type: ignore[arg-type]
        *(Lost("x"), Unprintable("x"), Incomplete()),
    ],
    ids=["field", "retry_after", "status", "text", "attributes"],
)
async def test_an_error_that_can_t_be_sent_is_an_internal_one(error: Exception) -> None:
    run = await Run(yields(Text("a"), error)).end()
    assert (run.last["kind"], run.last["status"]) == ("error", "INTERNAL")
    assert run.last["message"] == "The pipeline 'p' failed."


async def test_an_error_has_only_what_grpc_can_send() -> None:
    run = await Run(yields(InvalidInput("a \ud800", field="b\udfff", retry_after=math.inf))).end()
    assert (run.last["message"], run.last["field"], run.last["retry_after"]) == ("a ?", "b?", None)
