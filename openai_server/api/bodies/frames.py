"""The messages between the event loop and a helper process. PURE."""

import struct
from typing import NamedTuple

from openai_server.access.caps import Caps

JOB = struct.Struct("<IQ")
"""Header of a job: lengths of the parser's name and of the body, in bytes. Name and body follow."""
RESULT = struct.Struct("<Q")
"""Header of a pickled result: its length in bytes."""
READY = b"\0"
"""Sent by a helper process when it can take jobs."""


class Limits(NamedTuple):
    """Limits of a helper process: `seconds` of processor time for each job, `memory` in bytes of address space."""

    caps: Caps
    seconds: float
    memory: int


class Refusal(NamedTuple):
    """An error to raise in the server's process: an InvalidRequest, or status 500 for an unexpected exception."""

    status: int
    message: str
    param: str | None
    code: str | None
