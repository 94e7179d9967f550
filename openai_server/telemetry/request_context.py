"""Which request a task works for. A file of its own, so that logging needs nothing else of the sidecar."""

from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openai_server.telemetry.record import Record

record: "ContextVar[Record | None]" = ContextVar("record", default=None)


def request_id() -> str:
    """Empty if it works for none."""
    found = record.get()
    return found.id if found else ""
