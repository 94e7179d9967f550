"""What of W3C's trace context is passed on: https://www.w3.org/TR/trace-context/. PURE.

What makes no sense has no effect on an answer: it is left out rather than refused.
"""

import re

MAX_STATE_LENGTH = 512
MAX_MEMBERS = 32
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)
_MEMBER = re.compile(r"[a-z0-9][a-z0-9_*/@-]{0,255}=[ -+\--<>-~]{1,256}", re.ASCII)
"""Key and value: the latter is visible ASCII and spaces, without comma and equals sign."""


def parent(given: str) -> str:
    """A `traceparent`, or empty if it is none."""
    return given if given and _PARENT.fullmatch(given) else ""


def state(given: str) -> str:
    """A `tracestate`, or empty if it is none. It means nothing without its parent."""
    if not given or len(given) > MAX_STATE_LENGTH:
        return ""
    members = [member for part in given.split(",") if (member := part.strip(" \t"))]
    if len(members) > MAX_MEMBERS or not all(_MEMBER.fullmatch(member) for member in members):
        return ""
    return ",".join(members)
