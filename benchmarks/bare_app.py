"""Reference for the translator: bare uvicorn that writes the chunks that a sidecar would write.

python -m benchmarks.bare_app PORT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import uvicorn

from benchmarks import pace

Message = dict[str, Any]
HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]
CHUNK = {
    "id": "cmpl-0123456789abcdef0123456789abcdef",
    "object": "text_completion",
    "created": 1700000000,
    "model": "bench",
    "choices": [{"index": 0, "text": pace.TEXT, "logprobs": None, "finish_reason": None}],
}
EVENT = b"data: " + orjson.dumps(CHUNK) + b"\n\n"
DONE = b"data: [DONE]\n\n"

_beat = pace.Beat()


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    tokens, seconds = pace.parse(orjson.loads(body)["prompt"])
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    for _ in range(tokens):
        if seconds:
            await _beat.step(seconds)
        await send({"type": "http.response.body", "body": EVENT, "more_body": True})
    await send({"type": "http.response.body", "body": DONE})


if __name__ == "__main__":
    uvicorn.run(
        app,
        host="127.0.0.1",
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
