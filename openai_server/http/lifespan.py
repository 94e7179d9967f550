"""ASGI's lifespan protocol: start-up and shutdown."""

import traceback
from contextlib import AbstractAsyncContextManager

from starlette.types import Receive, Send


async def lifespan(block: AbstractAsyncContextManager[None], receive: Receive, send: Send) -> None:
    """Enters `block` at start-up and leaves it at shutdown. Reports its exceptions to the server and raises them."""
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
