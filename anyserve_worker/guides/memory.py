"""Caches for guides: refusals, and the guides compiled last. PURE."""

from collections import OrderedDict
from hashlib import sha256
from typing import Generic, TypeVar

from anyserve_worker.core.guide import Guide

V = TypeVar("V")


def digest(guide: Guide) -> bytes:
    """Returns a key for the guide's language and source."""
    return sha256(guide.language.encode() + b"\0" + guide.source.encode()).digest()


class LeastRecentlyUsed(Generic[V]):
    """Values by key. The least recently used are dropped when their number or total weight exceeds a limit."""

    def __init__(self, max_items: int, max_weight: float) -> None:
        """A value that alone weighs more than `max_weight` is not kept at all."""
        self._max_items = max_items
        self._max_weight = max_weight
        self._items: OrderedDict[bytes, tuple[V, float]] = OrderedDict()
        self._weight = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: bytes) -> V | None:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def put(self, key: bytes, value: V, weight: float) -> None:
        """Adds a value. The key must be absent."""
        assert key not in self._items
        if weight > self._max_weight:
            return
        self._items[key] = value, weight
        self._weight += weight
        while len(self._items) > self._max_items or self._weight > self._max_weight:
            _, (_, weight) = self._items.popitem(last=False)
            self._weight -= weight

    def clear(self) -> None:
        self._items.clear()
        self._weight = 0.0
