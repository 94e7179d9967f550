"""Serves the files of the reference page, which are read when the page is first opened, and then cached."""

import asyncio
import gzip
import hashlib
import zlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from starlette.responses import Response, StreamingResponse

from openai_server.api.docs.paths import BUNDLE, FILES, PAGE
from openai_server.core.request_context import RequestContext

FOLDER = Path(__file__).parent
PART_BYTES = 64 << 10
"""Bytes of a file that are sent at a time, and so the most that a slow client keeps in memory."""

MEDIA_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",  # the icons in Swagger UI's stylesheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
IMMUTABLE = "public, max-age=31536000, immutable"
"""For the bundle, whose path contains its version."""
REVALIDATED = "no-cache"


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is stored. `size` (bytes) and `digest` are those of the decompressed content."""

    content: bytes
    is_compressed: bool
    size: int
    digest: str
    media_type: str

    @classmethod
    def read(cls, name: str) -> "File":
        content = (FOLDER / name).read_bytes()
        is_compressed = name.endswith(".gz")
        plain = gzip.decompress(content) if is_compressed else content
        media_type = MEDIA_TYPES.get(Path(name.removesuffix(".gz")).suffix, "text/plain")
        return cls(content, is_compressed, len(plain), hashlib.sha256(plain).hexdigest()[:32], media_type)

    async def parts(self, *, compressed: bool) -> AsyncIterator[bytes]:
        if not self.is_compressed or compressed:
            for start in range(0, len(self.content), PART_BYTES):
                yield self.content[start : start + PART_BYTES]
            return
        decompressor = zlib.decompressobj(wbits=31)  # gzip's format
        pending = self.content
        while part := decompressor.decompress(pending, PART_BYTES):
            yield part
            pending = decompressor.unconsumed_tail


_read = cache(File.read)


async def respond(context: RequestContext) -> Response:
    """The response to a GET or HEAD request for one of the paths."""
    path = context.scope["path"]
    file = await asyncio.to_thread(_read, FILES[path])
    compressed = file.is_compressed and _accepts_gzip(_values(context, b"accept-encoding"))
    etag = f'"{file.digest}{"-gzip" if compressed else ""}"'
    headers = {
        "cache-control": IMMUTABLE if path.startswith(BUNDLE) else REVALIDATED,
        "etag": etag,
        "x-content-type-options": "nosniff",
    }
    if file.is_compressed:
        headers["vary"] = "Accept-Encoding"
    if path == PAGE:
        headers |= {"content-security-policy": CONTENT_SECURITY_POLICY, "referrer-policy": "no-referrer"}
    if _matches(_values(context, b"if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    headers["content-type"] = f"{file.media_type}; charset=utf-8"
    headers["content-length"] = str(len(file.content) if compressed else file.size)
    if compressed:
        headers["content-encoding"] = "gzip"
    if context.scope["method"] == "HEAD":
        return Response(headers=headers)
    return StreamingResponse(file.parts(compressed=compressed), headers=headers)


def _values(context: RequestContext, name: bytes) -> list[str]:
    """The values of all headers with this name."""
    return [value.decode("latin-1") for header, value in context.scope["headers"] if header == name]


def _accepts_gzip(values: list[str]) -> bool:
    """Whether the client accepts gzip. Without the header it doesn't: curl would print the compressed bytes."""
    for coding in ",".join(values).split(","):
        name, _, weight = coding.partition(";")
        if name.strip().lower() in ("gzip", "x-gzip", "*"):
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False


def _matches(values: list[str], etag: str) -> bool:
    """Compares ETags weakly, as RFC 9110, 13.1.2 requires: a proxy that compresses a file weakens its ETag."""
    return any(value.strip().removeprefix("W/") in (etag, "*") for value in ",".join(values).split(","))
