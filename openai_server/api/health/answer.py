"""The response to a probe. PURE."""

from typing import Literal

from msgspec import UNSET, Struct, UnsetType


class Health(Struct):
    status: Literal["ok"]
    store: Literal["ok", "unavailable"] | UnsetType = UNSET
    """Whether the store answers; absent without a store, and from `/livez`. Requests that need no store work without
    it, so it doesn't change the HTTP status."""
