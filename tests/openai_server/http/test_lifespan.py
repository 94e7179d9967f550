from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from openai_server.http.lifespan import lifespan


class Server:
    """Sends start-up and shutdown, and records all events in order."""

    def __init__(self) -> None:
        self.events: list[str] = []

    async def receive(self) -> Message:
        kind = "shutdown" if "lifespan.startup.complete" in self.events else "startup"
        self.events.append(f"lifespan.{kind}")
        return {"type": self.events[-1]}

    async def send(self, message: Message) -> None:
        self.events.append(message["type"])


@asynccontextmanager
async def block(server: Server, fails: str = "") -> AsyncIterator[None]:
    server.events.append("begin")
    if fails == "startup":
        raise ValueError(fails)
    yield
    server.events.append("end")
    if fails == "shutdown":
        raise ValueError(fails)


async def test_the_block_is_entered_at_startup_and_left_at_shutdown() -> None:
    server = Server()
    await lifespan(block(server), server.receive, server.send)
    assert server.events == [
        *("lifespan.startup", "begin", "lifespan.startup.complete"),
        *("lifespan.shutdown", "end", "lifespan.shutdown.complete"),
    ]


@pytest.mark.parametrize("fails", ["startup", "shutdown"])
async def test_a_failure_is_reported(fails: str) -> None:
    server = Server()
    with pytest.raises(ValueError, match=fails):
        await lifespan(block(server, fails), server.receive, server.send)
    assert server.events[-1] == f"lifespan.{fails}.failed"
