"""Responses with a JSON body. Nearly all are, so their headers are made without Starlette's work on them."""

from collections.abc import Mapping

import msgspec
from starlette.responses import Response

encode = msgspec.json.Encoder().encode


class JSONResponse(Response):
    """`content`: msgspec Structs, dictionaries and lists. A whole chat takes msgspec 0.5 µs with the Structs that it is
    made of, orjson 0.6 µs with the dictionaries."""

    def __init__(self, content: object, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.status_code, self.background = status_code, None
        self.body = encode(content)
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]
        if headers:
            self.raw_headers += [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
