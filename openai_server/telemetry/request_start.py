"""Builds the context of an HTTP request from its head: its id, its trace, and the values for log lines. PURE."""

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from os import urandom
from typing import Any

from anyserve_common import trace_context
from openai_server.core import current_request
from openai_server.core.request_context import OTHER, RequestContext
from openai_server.core.routing import routing

MAX_ID_LENGTH = 128
_SANE_ID = re.compile(rf"[!-~]{{1,{MAX_ID_LENGTH}}}", re.ASCII)
MAX_PATH_LENGTH = 256
"""Characters of a path in log lines."""


def request_id(client_id: str) -> str:
    """The client's own id if it is 1 to 128 characters of visible ASCII, or else a new one."""
    return client_id if client_id and _SANE_ID.fullmatch(client_id) else f"req_{urandom(16).hex()}"


def begin(
    scope: Mapping[str, Any],
    receive: Callable[[], Awaitable[Any]],
    *,
    clock: Callable[[], float],
    on_waiting: Callable[[RequestContext, int], None],
    endpoint: str = OTHER,
    operation: str = "",
    is_logged: bool = True,
    parameters: Mapping[str, str] | None = None,
) -> RequestContext:
    """The context of an ASGI request. It becomes the current one."""
    headers = dict(reversed(scope["headers"]))  # the first of each name
    client = scope.get("client")
    traceparent = headers.get(b"traceparent")
    parent = trace_context.parent(traceparent.decode("latin-1")) if traceparent else ""
    context = RequestContext(
        id=request_id(headers.get(b"x-request-id", b"").decode("latin-1")),
        method=scope["method"],
        path=_shown(scope.get("raw_path") or b""),
        endpoint=endpoint,
        operation=operation,
        is_logged=is_logged,
        client=client[0] if client else "",
        traceparent=parent,
        tracestate=_tracestate(scope["headers"]) if parent and b"tracestate" in headers else "",
        routing=routing(headers),
        clock=clock,
        on_waiting=on_waiting,
        scope=scope,
        receive=receive,
        parameters=parameters or {},
    )
    current_request.context.set(context)
    return context


def _tracestate(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """The values of all `tracestate` headers as one list."""
    return trace_context.state(b",".join(value for name, value in headers if name == b"tracestate").decode("latin-1"))


def _shown(path: bytes) -> str:
    """The path as it was sent, still percent-encoded, so that it is one word of a log line."""
    text = path[:MAX_PATH_LENGTH].decode("ascii", "backslashreplace")
    return text if text.isprintable() and " " not in text else re.sub(r"[^!-~]", "?", text)
