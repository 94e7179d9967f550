"""The server of `--admin-port`, for health and metrics.

It runs from before the API's first response until after its last one, so that it can report the drain.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from starlette.types import ASGIApp

from openai_server.http.connection import connection

MAX_CONNECTIONS = 64
"""Maximum number of open connections."""


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Does nothing: the API's server handles the signals."""
        yield


@asynccontextmanager
async def serving(app: ASGIApp, listeners: Sequence[socket.socket]) -> AsyncIterator[None]:
    """Serves `app` on `listeners`, if there are any, until the block ends."""
    if not listeners:
        yield
        return
    server = _Server(
        uvicorn.Config(
            app,
            http=connection(
                header_seconds=10,
                body_seconds=10,
                send_seconds=60,
                max_connections=MAX_CONNECTIONS,
                refused=lambda: None,
            ),
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
