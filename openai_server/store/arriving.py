"""Counts the bytes of the files that arrive in this process, which no row counts yet. PURE."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from openai_server.core.file_errors import FileQuotaExceeded


@dataclass(slots=True)
class _Arriving:
    """The files of one owner that arrive."""

    n_stored: int
    """Bytes that the owner has stored."""
    n_files: int = 0
    n_bytes: int = 0


class ArrivingFiles:
    """Many files that arrive at a time can't exceed `max_bytes` together with what their owner has stored. 0 is no
    limit."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._by_owner: dict[str, _Arriving] = {}

    @contextmanager
    def counting(self, owner: str, n_stored: int) -> Iterator[Callable[[int], None]]:
        """Returns a function to call with the number of bytes of each piece of a file. It raises FileQuotaExceeded.
        `n_stored`: bytes that the owner has stored."""
        arriving = self._by_owner.setdefault(owner, _Arriving(n_stored))
        arriving.n_stored = n_stored
        arriving.n_files += 1
        n_bytes = 0

        def count(n: int) -> None:
            nonlocal n_bytes
            n_bytes += n
            arriving.n_bytes += n
            if 0 < self._max_bytes < arriving.n_stored + arriving.n_bytes:
                arriving.n_bytes -= n_bytes  # at once, not when its blob is deleted: the others go on
                n_bytes = 0
                raise FileQuotaExceeded(f"{self._max_bytes} bytes")

        try:
            yield count
            arriving.n_stored += n_bytes  # a row will count it
        finally:
            arriving.n_bytes -= n_bytes
            arriving.n_files -= 1
            if not arriving.n_files:
                del self._by_owner[owner]
