"""The request that a task works for, for log lines and calls to the backend. PURE.

A module of its own, so that logging needs nothing else of the sidecar. Tasks that serve many requests must start
outside any request's context.
"""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai_server.core.request_context import RequestContext

context: "ContextVar[RequestContext | None]" = ContextVar("context", default=None)


def request_id() -> str:
    """The current request's id; empty outside a request."""
    found = context.get()
    return found.id if found else ""
