"""Requests that wait for a slot of a pipeline. PURE."""

from collections import Counter
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class WaitingLine(Generic[T]):
    """A free slot goes to the caller with the fewest running requests; ties go to the request that arrived first."""

    def __init__(self) -> None:
        self._waiting: dict[T, str] = {}
        """The caller of each request, in the order of arrival."""
        self._n_running: Counter[str] = Counter()

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._waiting))

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, request: T, caller: str) -> None:
        self._waiting[request] = caller

    def remove(self, request: T) -> None:
        """No effect if the request doesn't wait."""
        self._waiting.pop(request, None)

    def pop(self) -> T:
        """Removes and returns the next request."""
        request = min(self._waiting, key=lambda request: self._n_running[self._waiting[request]])
        del self._waiting[request]
        return request

    def clear(self) -> list[T]:
        """Removes and returns all requests."""
        waiting, self._waiting = list(self._waiting), {}
        return waiting

    def begin(self, caller: str) -> None:
        """A request of the caller runs."""
        self._n_running[caller] += 1

    def end(self, caller: str) -> None:
        self._n_running[caller] -= 1
        if not self._n_running[caller]:
            del self._n_running[caller]
