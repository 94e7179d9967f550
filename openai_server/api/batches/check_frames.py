"""The messages between the event loop and the process that checks an input file. PURE."""

import struct

from msgspec import Struct

SIZE = struct.Struct("<I")
"""Header of a message: its length in bytes. A message is `Limits` or a piece of the file for the process, and
`checking.Checked` from it. An empty piece ends the file."""


class Limits(Struct, frozen=True):
    """The limits of the process, and of the file that it checks."""

    endpoint: str
    max_line_bytes: int
    max_lines: int
    seconds: float
    """Processor time."""
    memory: int
    """Bytes of address space."""


OUT_OF_MEMORY = 3
"""Exit status of the process if its memory isn't enough for the file."""
