"""Spans of a prompt. PURE."""

from collections.abc import Sequence

Spans = Sequence[tuple[int, int]]
"""(start, end) of each plain span in characters, ascending and disjoint. No special token is recognized in a span."""
