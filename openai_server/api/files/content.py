"""The response with the content of a file, which is read as fast as the client takes it."""

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from openai_server.api.files.disposition import attachment
from openai_server.api.files.ranges import Part, etag_of
from openai_server.core.request_context import RequestContext
from openai_server.http.streaming import CLIENT_CLOSED_REQUEST, EXCHANGE, Exchange
from openai_server.store.file_records import StoredFile

Headers = list[tuple[bytes, bytes]]


class ContentResponse(Response):
    """`pieces` are those after `first`. An error among them ends the connection before the announced length."""

    def __init__(self, file: StoredFile, part: Part, first: bytes, pieces: AsyncGenerator[bytes, None]) -> None:
        self.status_code, self.background = 206 if part.is_range else 200, None
        self.raw_headers = [*content_headers(file), (b"content-length", b"%d" % (part.end - part.start))]
        if part.is_range:
            content_range = f"bytes {part.start}-{part.end - 1}/{file.n_bytes}"
            self.raw_headers.append((b"content-range", content_range.encode()))
        self._first, self._pieces = first, pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[EXCHANGE]
        async with aclosing(self._pieces):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for piece in self._pieces:
                if exchange.is_gone:
                    self.status_code = CLIENT_CLOSED_REQUEST
                    return
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            await send({"type": "http.response.body"})


def content_headers(file: StoredFile) -> Headers:
    """The type is never that which the client sent: a browser must not run the file."""
    return [
        (b"content-type", b"application/octet-stream"),
        (b"content-disposition", attachment(file.filename).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"accept-ranges", b"bytes"),
        (b"etag", etag_of(file.id)),
    ]


def bare(status: int, headers: Headers) -> Response:
    """A response without a body."""
    response = Response(status_code=status)
    response.raw_headers = headers
    return response


def is_head(context: RequestContext) -> bool:
    return bool(context.scope["method"] == "HEAD")
