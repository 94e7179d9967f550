"""Server-sent events, as OpenAI sends them: each is one `data:` line of JSON.

PURE. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import msgspec

from openai_server.core.errors import APIError

_encode = msgspec.json.Encoder().encode

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events before it passes them on
]

DATA = b"data: "
END = b"\n\n"

PING = b": ping\n\n"
"""A comment: keeps proxies from closing a silent connection, and clients skip it."""

DONE = b"data: [DONE]\n\n"


def event(payload: object) -> bytes:
    return DATA + _encode(payload) + END


def failure(error: APIError) -> bytes:
    """What ends a stream that broke after its status had been sent."""
    return event(error.envelope()) + DONE
