"""Health and metrics: on the API's port, or with `--admin-port` on one of their own, and then not on the API's.

The server on a port of its own lives from before the API's first answer until after its last one, so that it can tell
of the drain.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp

from openai_server.http.connection import connection
from openai_server.telemetry.metrics import CONTENT_TYPE
from openai_server.telemetry.observer import Observer

MOST = 64
"""Connections to a port of their own."""


def metrics_route(observer: Observer) -> Route:
    async def answer(_: Request) -> Response:
        observer.tell()
        # In a thread: with many series, the text takes longer than streams should wait.
        return Response(await asyncio.to_thread(observer.metrics.text), headers={"content-type": CONTENT_TYPE})

    return Route("/metrics", answer, name="/metrics")


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are the API's server's."""
        yield


@asynccontextmanager
async def serving(app: ASGIApp, listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Serves on `listeners`, if there are any, until the block ends."""
    if not listeners:
        yield
        return
    server = _Server(
        uvicorn.Config(
            app,
            http=connection(header_seconds=10, body_seconds=10, send_seconds=60, most=MOST, refused=lambda: None),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(list(listeners)))
    try:
        yield
    finally:
        server.should_exit = True
        await task
