"""How many connections fit under the limit of open files: one that does not fit would fail in unclear ways."""

import logging
import resource

log = logging.getLogger(__name__)

RESERVE = 128
"""Files that are no connections of clients: to backends, for logs, keys, metrics."""


def fitting(asked: int, soft: int, hard: int) -> tuple[int, int]:
    """How many of the connections that were asked for may be open, and the soft limit of open files for that."""
    needed = asked + RESERVE
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return asked, soft
    soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    return max(1, soft - RESERVE), soft


def room_for(asked: int) -> int:
    """Raises the soft limit as far as that is needed, and allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    connections, needed = fitting(asked, soft, hard)
    if needed != soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    if connections < asked:
        log.warning("%d connections at most, instead of %d: the limit of open files is %d", connections, asked, needed)
    return connections
