"""The client's address behind a trusted proxy, for the access log."""

from collections.abc import Awaitable
from typing import cast

from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

_NAMES = frozenset((b"x-forwarded-for", b"x-forwarded-proto"))


class Forwarded:
    """Passes a request through uvicorn's ProxyHeadersMiddleware only if it has one of the headers for it.

    Returns the application's coroutine rather than awaiting it, which saves all other requests a coroutine.
    """

    def __init__(self, app: ASGIApp, config: Config) -> None:
        """`config.forwarded_allow_ips` are the trusted proxies."""
        self._app = app
        self._behind_proxy = cast(ASGIApp, ProxyHeadersMiddleware(app, config.forwarded_allow_ips))  # type: ignore[arg-type]

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        for name, _ in scope.get("headers", ()):
            if name in _NAMES:
                return self._behind_proxy(scope, receive, send)
        return self._app(scope, receive, send)
