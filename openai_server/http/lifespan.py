"""ASGI's lifespan: what runs as long as the server does."""

import traceback
from contextlib import AbstractAsyncContextManager

from starlette.types import Receive, Send


async def lifespan(block: AbstractAsyncContextManager[None], receive: Receive, send: Send) -> None:
    """Is inside `block` from start-up to shutdown. Raises what it raises, after reporting it to the server."""
    started = False
    await receive()
    try:
        async with block:
            await send({"type": "lifespan.startup.complete"})
            started = True
            await receive()
    except BaseException:
        failed = "lifespan.shutdown.failed" if started else "lifespan.startup.failed"
        await send({"type": failed, "message": traceback.format_exc()})
        raise
    await send({"type": "lifespan.shutdown.complete"})
