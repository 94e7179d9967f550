"""Background responses of server processes that are killed, stopped, and continued."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from openai import APIError, AsyncOpenAI, BadRequestError

from tests.postgres import running_postgres
from tests.wire.fake_worker import FakeWorker, first_token, last_token, serving, token
from tests.wire.test_sidecar_background import PacedWorker
from tests.wire.test_sidecar_process import Running, client, sidecar

pytestmark = pytest.mark.slow

TAKEOVER_SECONDS = 30
"""More than a lease lasts."""


Two = tuple[Running, AsyncOpenAI, Running, AsyncOpenAI]
"""Two processes, each with a client of it."""


@asynccontextmanager
async def two_processes(
    worker: FakeWorker, url: str
) -> AsyncIterator[tuple[Running, AsyncOpenAI, Running, AsyncOpenAI]]:
    async with (
        serving(worker) as port,
        sidecar(port, "--store", url) as a,
        client(a.port) as at_a,
        sidecar(port, "--store", url) as b,
        client(b.port) as at_b,
    ):
        yield a, at_a, b, at_b


async def begun(openai: AsyncOpenAI, worker: PacedWorker, **body: Any) -> str:
    """Creates a background response, and returns its id when its process has called the backend."""
    response = await openai.responses.create(model="tiny", input="hi", background=True, **body)
    assert response.status == "queued"
    assert await asyncio.wait_for(worker.arrived.get(), TAKEOVER_SECONDS) == response.id
    return str(response.id)


async def seen(openai: AsyncOpenAI, id: str, text: str, after: int | None = None) -> list[int]:
    """Follows a response up to a delta with this text, and returns the numbers of its events."""
    numbers = []
    kwargs: dict[str, Any] = {} if after is None else {"starting_after": after}
    async with await openai.responses.retrieve(id, stream=True, **kwargs) as stream:
        async for event in stream:
            numbers.append(event.sequence_number)
            if event.type == "response.output_text.delta" and event.delta == text:
                return numbers
    raise AssertionError("the stream has no such delta")


async def ended(openai: AsyncOpenAI, id: str) -> Any:
    """Follows a response to its end, and returns it as it is stored."""
    n = 0
    async with asyncio.timeout(TAKEOVER_SECONDS):
        stream = await openai.responses.retrieve(id, stream=True)
        with suppress(APIError):  # raised for the event `error` of a response that failed
            async for event in stream:
                assert event.sequence_number == n
                n += 1
    return await openai.responses.retrieve(id)


async def test_the_openai_package_creates_follows_resumes_and_cancels(tmp_path: Path) -> None:
    worker = PacedWorker()
    url = f"sqlite:///{tmp_path / 'db'}"
    async with serving(worker) as port, sidecar(port, "--store", url) as running, client(running.port) as openai:
        stream = await openai.responses.create(model="tiny", input="hi", background=True, stream=True)
        await worker.send_tokens(first_token("a"))
        events = []
        async for event in stream:
            events.append(event)
            if event.type == "response.output_text.delta":
                break
        await stream.close()
        await worker.send_tokens(token("b"), last_token())
        id = events[0].response.id  # type: ignore[union-attr]  # the first event has the response
        rest = await openai.responses.retrieve(id, stream=True, starting_after=events[-1].sequence_number)
        events += [event async for event in rest]
        assert [event.sequence_number for event in events] == list(range(len(events)))
        assert events[-1].type == "response.completed"
        assert events[-1].response.output_text == "ab"
        assert (await openai.responses.retrieve(id)).output_text == "ab"
        assert (await openai.responses.cancel(id)).status == "completed"
        foreground = await openai.responses.create(model="tiny", input="hi")
        with pytest.raises(BadRequestError):
            await openai.responses.cancel(foreground.id)


@pytest.mark.parametrize("kind", ["file", "postgres"])
async def test_a_process_that_is_killed(kind: str, tmp_path: Path) -> None:
    if kind == "file":
        await _kill(f"sqlite:///{tmp_path / 'db'}")
        return
    with running_postgres() as server:
        await server.execute("CREATE DATABASE store")
        await _kill(server.url("store"))


async def _kill(url: str) -> None:
    """The other process runs again what no client has seen; what one has seen fails with its events."""
    worker = PacedWorker()
    async with two_processes(worker, url) as (a, at_a, b, at_b):
        b.process.send_signal(signal.SIGSTOP)  # so that it takes nothing yet
        unseen = await begun(at_a, worker)
        followed = await begun(at_a, worker)
        await worker.send_tokens(first_token("a"))
        await seen(at_a, followed, "a")
        a.process.kill()
        b.process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(worker.arrived.get(), TAKEOVER_SECONDS) == unseen
        await worker.send_tokens(last_token("b"))
        again, failed = await ended(at_b, unseen), await ended(at_b, followed)
        assert (again.status, again.output_text) == ("completed", "ab")
        assert (failed.status, failed.error.code) == ("failed", "server_error")
        assert "ended" in failed.error.message
        assert worker.arrived.empty()


async def test_a_process_that_was_stopped_does_nothing_twice() -> None:
    """In PostgreSQL: a process that is stopped inside a transaction on an SQLite file blocks all others."""
    worker = PacedWorker()
    with running_postgres() as server:
        await server.execute("CREATE DATABASE store")
        await _stop(worker, server.url("store"))


async def _stop(worker: PacedWorker, url: str) -> None:
    async with two_processes(worker, url) as (a, at_a, b, at_b):
        conversation = (await at_b.conversations.create()).id
        b.process.send_signal(signal.SIGSTOP)
        id = await begun(at_a, worker, conversation=conversation)
        await worker.send_tokens(first_token("a"))
        a.process.send_signal(signal.SIGSTOP)
        b.process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(worker.arrived.get(), TAKEOVER_SECONDS) == id
        await seen(at_b, id, "a")
        a.process.send_signal(signal.SIGCONT)
        assert await asyncio.wait_for(worker.cancelled.get(), TAKEOVER_SECONDS) == id
        await worker.send_tokens(last_token("b"))
        assert (await ended(at_b, id)).output_text == "ab"
        assert (await ended(at_a, id)).output_text == "ab"
        items = [item async for item in at_a.conversations.items.list(conversation)]
        assert len(items) == 2


async def test_a_process_that_gets_sigterm_finishes_its_runs(tmp_path: Path) -> None:
    worker = PacedWorker()
    async with serving(worker) as port, sidecar(port, "--store", f"sqlite:///{tmp_path / 'db'}") as first:
        async with client(first.port) as openai:
            id = await begun(openai, worker)
            await first.drain_with(signal.SIGTERM)
            await worker.send_tokens(last_token("a"))
            assert await first.exit_status() == 0
        async with sidecar(port, "--store", f"sqlite:///{tmp_path / 'db'}") as second, client(second.port) as openai:
            assert (await ended(openai, id)).output_text == "a"
    assert worker.arrived.empty()
