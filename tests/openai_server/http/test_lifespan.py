from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Message

from openai_server.http.lifespan import lifespan


class Server:
    """Sends start-up and shutdown, and writes down all that happens."""

    def __init__(self) -> None:
        self.happened: list[str] = []

    async def receive(self) -> Message:
        kind = "shutdown" if "lifespan.startup.complete" in self.happened else "startup"
        self.happened.append(f"lifespan.{kind}")
        return {"type": self.happened[-1]}

    async def send(self, message: Message) -> None:
        self.happened.append(message["type"])


@asynccontextmanager
async def block(server: Server, fails: str = "") -> AsyncIterator[None]:
    server.happened.append("begin")
    if fails == "startup":
        raise ValueError(fails)
    yield
    server.happened.append("end")
    if fails == "shutdown":
        raise ValueError(fails)


async def test_the_block_is_entered_before_requests_and_left_after_them() -> None:
    server = Server()
    await lifespan(block(server), server.receive, server.send)
    assert server.happened == [
        *("lifespan.startup", "begin", "lifespan.startup.complete"),
        *("lifespan.shutdown", "end", "lifespan.shutdown.complete"),
    ]


@pytest.mark.parametrize("fails", ["startup", "shutdown"])
async def test_a_failure_is_reported(fails: str) -> None:
    server = Server()
    with pytest.raises(ValueError, match=fails):
        await lifespan(block(server, fails), server.receive, server.send)
    assert server.happened[-1] == f"lifespan.{fails}.failed"
