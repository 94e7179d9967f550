"""CORS: the headers that allow web pages to read the responses. PURE.

Starlette's middleware wraps `send`, which costs time for each token. Here the headers are added to a response once.
"""

from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

EXPOSED = ", ".join(
    (
        *("x-request-id", "request-id", "retry-after", "retry-after-ms"),
        *("accept-ranges", "content-disposition", "content-range", "etag"),
        *(f"x-ratelimit-{name}-{unit}" for unit in ("requests", "tokens") for name in ("limit", "remaining", "reset")),
    )
)
MAX_NAMES = 4096
"""Bytes of `access-control-request-headers` that a preflight response repeats. No browser sends a longer value."""
MAX_AGE = "600"
"""Seconds for which a browser may cache the response to a preflight request."""


class Cors:
    """`origins` as browsers send them; `*` is any. Without origins, no headers are sent, and browsers refuse access."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = {origin.encode() for origin in origins}
        self._all = b"*" in self._origins

    def headers(self, request: Iterable[Header]) -> dict[str, str]:
        """Headers for any response to this request."""
        if not self._origins:
            return {}
        allowed = self._allowed(dict(request).get(b"origin"))
        headers = {} if self._all else {"vary": "Origin"}
        if allowed:
            headers |= {"access-control-allow-origin": allowed, "access-control-expose-headers": EXPOSED}
        return headers

    def preflight(self, method: str, request: Iterable[Header]) -> dict[str, str] | None:
        """Headers for the response to a preflight request, besides those of `headers`; None for another request."""
        if method != "OPTIONS" or not self._origins:
            return None
        request_headers = dict(request)
        if b"access-control-request-method" not in request_headers:
            return None
        if not self._allowed(request_headers.get(b"origin")):
            return None
        headers = {"access-control-allow-methods": "GET, POST, DELETE", "access-control-max-age": MAX_AGE}
        # All requested names: clients send a dozen headers of their own, and `*` would not include Authorization.
        names = request_headers.get(b"access-control-request-headers", b"")
        if 0 < len(names) <= MAX_NAMES:
            headers["access-control-allow-headers"] = names.decode("latin-1")
        return headers

    def _allowed(self, origin: bytes | None) -> str:
        if origin is None:
            return ""
        if self._all:
            return "*"
        return origin.decode("latin-1") if origin in self._origins else ""
