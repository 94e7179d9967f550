"""What the event loop and a helper process send each other. PURE."""

import struct
from typing import NamedTuple

from openai_server.access.caps import Caps

JOB = struct.Struct("<IQ")
"""Before a job: bytes of the parser's name, and of the body. Both follow."""
RESULT = struct.Struct("<Q")
"""Before a pickled result: its bytes."""
READY = b"\0"
"""Sent by a process once it can take jobs."""


class Limits(NamedTuple):
    """What a helper process may do. `seconds` of processor time for one job, `memory` in bytes of address space."""

    caps: Caps
    seconds: float
    memory: int


class Refusal(NamedTuple):
    """An error, to be raised in the other process: an InvalidRequest, or 500 for one that should not happen."""

    status: int
    message: str
    param: str | None
    code: str | None
