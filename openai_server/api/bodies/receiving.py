"""Receives the body of a request, within the server's limits."""

from starlette.requests import ClientDisconnect

from openai_server.api.bodies.cost import UNCOUNTED_BYTES, VALUE_BYTES, structure
from openai_server.core.errors import BodyTooLarge, TooManyValues, UnsupportedEncoding
from openai_server.core.request_context import RequestContext
from openai_server.http.connection import BODY_ERROR
from openai_server.http.streaming import EXCHANGE, Exchange

MAX_LENGTH_DIGITS = 18
"""Digits of a content-length that are read: Python parses no integer of more than 4300 digits."""


async def receive(context: RequestContext, *, max_bytes: int, max_values: int) -> tuple[bytearray, int]:
    """The body, and the number of its structural bytes (0 for a small body, whose bytes are not counted).

    Raises BodyTooLarge and TooManyValues as soon as the limit is exceeded, UnsupportedEncoding, Overloaded,
    ClientDisconnect, and the connection's error for a body that is late or malformed.
    """
    exchange: Exchange = context.scope[EXCHANGE]
    if announced_bytes(context) > max_bytes:
        raise BodyTooLarge(max_bytes)
    uncounted = min(UNCOUNTED_BYTES, max_values)
    body, n_values, held, counting, more = bytearray(), 0, 0, False, True
    part = exchange.take_body()
    while more:
        if part is not None:
            more = False
        else:
            message = await context.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            part, more = message.get("body", b""), message.get("more_body", False)
        body += part
        if len(body) > max_bytes:
            raise BodyTooLarge(max_bytes)
        size = len(body)
        if size > uncounted:
            n_values += structure(part if counting else body)
            counting = True
            if n_values > max_values:
                raise TooManyValues(max_values)
            size = max(size, n_values * VALUE_BYTES)
        context.access.hold(size - held)
        held, part = size, None
    if error := context.scope.get(BODY_ERROR):
        raise error
    return body, n_values


def announced_bytes(context: RequestContext) -> int:
    """The length of the body, 0 if it isn't known. Nothing of it has been requested from the client yet. Raises
    UnsupportedEncoding."""
    n_bytes = 0
    for name, value in context.scope["headers"]:
        if name == b"content-length" and value.isdigit():
            n_bytes = int(value[:MAX_LENGTH_DIGITS])
        elif name == b"content-encoding" and not _is_identity(value):
            raise UnsupportedEncoding(value.decode("latin-1"))
    return n_bytes


def _is_identity(content_encoding: bytes) -> bool:
    return all(coding.strip(b" \t").lower() in (b"identity", b"") for coding in content_encoding.split(b","))
