"""Which web pages may read the answers. PURE.

Not Starlette's middleware: that wraps `send`, and so takes its time for each token. These are headers, sent with what
is sent anyway.
"""

from collections.abc import Iterable, Sequence

Header = tuple[bytes, bytes]

EXPOSED = ", ".join(
    (
        *("x-request-id", "retry-after", "retry-after-ms"),
        *(f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")),
    )
)
MAX_NAMES = 4096
"""Bytes of the names of headers that a browser asks for. None has more; longer ones aren't repeated."""
MAX_AGE = "600"
"""Seconds for which a browser need not ask again."""


class Cors:
    """`origins` as browsers send them; `*` is all. None at all says nothing to browsers, which then refuse."""

    def __init__(self, origins: Sequence[str]) -> None:
        self._origins = {origin.encode() for origin in origins}
        self._all = b"*" in self._origins

    def headers(self, request: Iterable[Header]) -> dict[str, str]:
        """For the answer to this request, whatever it is."""
        if not self._origins:
            return {}
        allowed = self._allowed(dict(request).get(b"origin"))
        headers = {} if self._all else {"vary": "Origin"}
        if allowed:
            headers |= {"access-control-allow-origin": allowed, "access-control-expose-headers": EXPOSED}
        return headers

    def preflight(self, method: str, request: Iterable[Header]) -> dict[str, str] | None:
        """What `headers` lacks for the answer to a browser that asks whether it may ask; None if this is no such."""
        if method != "OPTIONS" or not self._origins:
            return None
        given = dict(request)
        if b"access-control-request-method" not in given or not self._allowed(given.get(b"origin")):
            return None
        headers = {"access-control-allow-methods": "GET, POST, DELETE", "access-control-max-age": MAX_AGE}
        # All that it names: clients send a dozen of their own. `*` would leave out Authorization.
        asked = given.get(b"access-control-request-headers", b"")
        if 0 < len(asked) <= MAX_NAMES:
            headers["access-control-allow-headers"] = asked.decode("latin-1")
        return headers

    def _allowed(self, origin: bytes | None) -> str:
        if origin is None:
            return ""
        if self._all:
            return "*"
        return origin.decode("latin-1") if origin in self._origins else ""
