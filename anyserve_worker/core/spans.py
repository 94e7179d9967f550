"""Spans of a prompt. PURE."""

from collections.abc import Sequence

Spans = Sequence[tuple[int, int]]
"""Start and end of each plain span, in characters: no special token is read there. Ascending, apart from each other."""
