"""Limits of a pipeline. PURE."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    concurrency: int = 32
    """Requests that run at once."""
    queue: int = 256
    """Requests that may wait; further ones are refused."""
    timeout: float = 600
    """Seconds that a request, and the start of the pipeline, may take."""
    idle_timeout: float | None = None
    """Seconds that a running request may go without an event; None: no limit but `timeout`, since a pipeline that
    doesn't stream has no event before its end."""
    stall_timeout: float = 30
    """Seconds that the event loop of the pipeline's process may be blocked."""
    memory: int | None = None
    """MiB of resident memory above which the process is replaced; None: no limit."""
