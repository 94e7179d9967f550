"""The messages between the server and a process that reads a file. PURE."""

import struct
from typing import NamedTuple

JOB = struct.Struct("<dQQIQ")
"""Header of the job: the fields of Limits, and the lengths of name and file in bytes. Name and file follow."""
RESULT = struct.Struct("<cQ")
"""Header of the result: one of the outcomes below, and the length in bytes of the text that follows."""
TEXT, UNREADABLE, MISSING, FAILED = b"T", b"U", b"M", b"F"


class Limits(NamedTuple):
    """Limits of a process that reads one file."""

    seconds: float = 10.0
    """Processor time."""
    memory: int = 768 << 20
    """Bytes of address space."""
    text: int = 8 << 20
    """Bytes of text in UTF-8."""
