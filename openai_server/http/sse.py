"""Server-sent events in OpenAI's form: each event is one `data:` line of JSON.

PURE. https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

import msgspec

from openai_server.core.errors import APIError

_encode = msgspec.json.Encoder().encode

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # otherwise nginx buffers the events
]

DATA = b"data: "
END = b"\n\n"

PING = b": ping\n\n"
"""A comment, which clients skip. It keeps proxies from closing a silent connection."""

DONE = b"data: [DONE]\n\n"


def event(payload: object) -> bytes:
    return DATA + _encode(payload) + END


def failure(error: APIError) -> bytes:
    """The last events of a stream that failed after its status was sent."""
    return event(error.envelope()) + DONE
