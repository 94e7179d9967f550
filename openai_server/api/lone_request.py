"""Requests that no connection has brought: background responses, and the lines of batches."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from openai_server.access.keys import Caller
from openai_server.core.errors import APIError, RateLimited
from openai_server.core.request_context import RequestContext
from openai_server.http.streaming import CLIENT_CLOSED_REQUEST, EXCHANGE
from openai_server.jobs.runner import NotNow
from openai_server.telemetry.observer import Observer

RETRY_SECONDS = 0.5
"""Minimum time until another attempt at a request that could not begin."""
MAX_REST = 5.0
"""Maximum seconds for which an overloaded process takes no further runs, or none of a caller that is at its limit:
requests that end may make room earlier than expected."""

Enter = Callable[[Caller], Any]
"""Returns the access of a request of this caller. It must `end` in any case."""


class NoClient:
    """The exchange: no client can leave, and all of the body is there."""

    is_free = False
    is_gone = False

    def __init__(self, body: bytes = b"") -> None:
        self._body = body

    def write_now(self, part: bytes) -> None:
        raise NotImplementedError

    def take_body(self) -> bytes | None:
        body, self._body = self._body, b""
        return body

    def when_gone(self, callback: Callable[[], None] | None) -> None:
        pass


def scope(method: str, path: str, headers: Sequence[tuple[bytes, bytes]], body: bytes = b"") -> dict[str, Any]:
    """Stands for the ASGI scope of a request. Log lines have `method` where other requests have theirs."""
    return {
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "headers": headers,
        EXCHANGE: NoClient(body),
    }


@contextmanager
def lone_request(
    observer: Observer, enter: Enter, caller: Caller, scope: dict[str, Any], *, endpoint: str, operation: str
) -> Iterator[RequestContext]:
    """The context of the request, which the observer reports at its end, but not if it raises NotNow: then it is tried
    again. `endpoint` is its name in metrics and logs."""
    context = observer.begin(scope, _no_message, endpoint=endpoint, operation=operation)
    access = context.access = enter(caller)
    context.caller = access.caller.label
    try:
        yield context
    except NotNow:
        context.status, context.is_logged = 429, False
        raise
    except BaseException:
        context.status = CLIENT_CLOSED_REQUEST
        raise
    finally:
        access.end()
        observer.end(context)


def not_now(error: APIError) -> NotNow:
    """When to try again after an overload."""
    milliseconds = error.headers.get("retry-after-ms", "")
    wait = int(milliseconds) / 1000 if milliseconds else float(error.headers.get("retry-after", 0))
    return NotNow(min(max(wait, RETRY_SECONDS), MAX_REST), is_owners=isinstance(error, RateLimited))


async def _no_message() -> dict[str, Any]:
    return {"type": "http.disconnect"}
