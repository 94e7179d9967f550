"""The response to a probe. PURE."""

from typing import Literal

from msgspec import Struct


class Health(Struct):
    status: Literal["ok"]
