"""Receives a body piece by piece. The client is slowed down to the speed at which the pieces are taken."""

from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect

from openai_server.core.errors import APIError, BodyTooSlow
from openai_server.core.file_errors import FileTooSlow
from openai_server.core.request_context import RequestContext
from openai_server.http.connection import BODY_ERROR
from openai_server.http.streaming import EXCHANGE, Exchange

PROGRESS_BYTES = 1 << 20
"""Bytes that must arrive within `--body-timeout`, or the rest of the body."""


async def pieces(context: RequestContext, max_bytes: int, too_large: APIError) -> AsyncIterator[bytes]:
    """Raises `too_large`, ClientDisconnect, FileTooSlow, and the connection's error for a malformed body."""
    exchange: Exchange = context.scope[EXCHANGE]
    n_bytes, next_renewal, more = 0, PROGRESS_BYTES, True
    while more:
        message = await context.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        part, more = message.get("body", b""), message.get("more_body", False)
        n_bytes += len(part)
        if n_bytes > max_bytes:
            raise too_large
        if n_bytes >= next_renewal:
            next_renewal = n_bytes + PROGRESS_BYTES
            exchange.renew_body_time()
        if part:
            yield part
    error = context.scope.get(BODY_ERROR)
    if isinstance(error, BodyTooSlow):
        raise FileTooSlow(PROGRESS_BYTES, error.seconds)
    if error is not None:
        raise error
