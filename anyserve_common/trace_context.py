"""Validates W3C trace context before it is passed on: https://www.w3.org/TR/trace-context/. PURE.

An invalid value is dropped, not an error, since it has no effect on the answer.
"""

import re

MAX_STATE_LENGTH = 512
MAX_MEMBERS = 32
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{1,256}", re.ASCII)
"""Key and value. The value has visible ASCII and spaces, except comma and equals sign."""


def parent(header: str) -> str:
    """Returns the `traceparent`, or an empty string if it is invalid."""
    return header if header and _PARENT.fullmatch(header) else ""


def state(header: str) -> str:
    """Returns the normalized `tracestate`, or an empty string if it is invalid. Only meaningful with a parent."""
    if not header or len(header) > MAX_STATE_LENGTH:
        return ""
    members = [member for part in header.split(",") if (member := part.strip(" \t"))]
    if len(members) > MAX_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return ""
    return ",".join(members)
