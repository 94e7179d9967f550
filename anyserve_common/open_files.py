"""Limits connections to those that fit under the limit of open files. Beyond it, other connections and files fail."""

import logging
import resource

log = logging.getLogger(__name__)

RESERVE = 128
"""Open files besides client connections: models, listeners, backends, scrapers, helper processes."""


def fitting(wanted: int, soft: int, hard: int) -> tuple[int, int]:
    """Returns the allowed connections, at most `wanted`, and the soft limit of open files that they need."""
    needed = wanted + RESERVE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, soft
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    return max(1, soft - RESERVE), soft


def room_for(wanted: int) -> int:
    """Raises the soft limit as far as needed and allowed. Returns the allowed connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections, needed = fitting(wanted, soft, hard)
    if needed != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if connections < wanted:
        log.warning("at most %d connections instead of %d: the limit of open files is %d", connections, wanted, needed)
    return connections
