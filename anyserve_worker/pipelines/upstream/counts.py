"""Token counts in answers. PURE."""

from typing import Any

from protos import contract


def count(value: Any) -> int | None:
    """The value as a number of tokens; None if it isn't any, or more than the contract allows."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return int(value) if 0 <= value <= contract.INT32_MAX else None
