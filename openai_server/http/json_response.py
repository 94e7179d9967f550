"""Responses with a JSON body. Nearly all responses are, so their headers bypass Starlette's slower code."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

encode = msgspec.json.Encoder().encode


class JSONResponse(Response):
    """`content` consists of msgspec Structs, dictionaries and lists. Encoding a whole chat takes 0.5 µs as Structs with
    msgspec, and 0.6 µs as dictionaries with orjson."""

    def __init__(self, content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code, self.background = status_code, None
        self.body = encode(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
