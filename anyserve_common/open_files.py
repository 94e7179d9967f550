"""How many connections fit under the limit of open files: one that doesn't fit would make others fail."""

import logging
import resource

log = logging.getLogger(__name__)

RESERVE = 128
"""Open files that are no connections of clients: models, listeners, backends, scrapers, helper processes."""


def fitting(wanted: int, soft: int, hard: int) -> tuple[int, int]:
    """The connections that may be open, at most `wanted`, and the soft limit of open files for them."""
    needed = wanted + RESERVE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted, soft
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    return max(1, soft - RESERVE), soft


def room_for(wanted: int) -> int:
    """Raises the soft limit as far as that is needed and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections, needed = fitting(wanted, soft, hard)
    if needed != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if connections < wanted:
        log.warning("at most %d connections instead of %d: the limit of open files is %d", connections, wanted, needed)
    return connections
