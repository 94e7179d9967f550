"""Lines of batches that may be what ends the backend: one of them runs at a time, and only a few times."""

from asyncio import Lock
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MAX_LOSSES = 5
"""Number of times that the backend may be lost while it works on a line."""
MAX_LOSSES_TOGETHER = 2
"""Number of losses from which on a line runs alone. A backend that was restarted is no reason to run all lines that it
had one by one."""
MAX_LINES = 1024
"""Number of lines to remember; the oldest ones are forgotten."""


class LostLines:
    """Counts how often the backend was lost during each line. Lines with several losses run one at a time, so that the
    one that ends the backend is found, and others that run at the same time are not blamed again."""

    def __init__(self) -> None:
        self._losses: dict[str, int] = {}
        """Losses by the key of the line; lines without one are left out."""
        self._alone = Lock()

    @asynccontextmanager
    async def turn(self, line: str) -> AsyncIterator[None]:
        """Waits until the line with this key may run."""
        if self._losses.get(line, 0) < MAX_LOSSES_TOGETHER:
            yield
            return
        async with self._alone:
            yield

    def may_be_tried_again(self, line: str) -> bool:
        """Counts a loss. Returns whether another one is acceptable."""
        n_losses = self._losses.pop(line, 0) + 1
        if n_losses >= MAX_LOSSES:
            return False
        self._losses[line] = n_losses
        if len(self._losses) > MAX_LINES:
            del self._losses[next(iter(self._losses))]
        return True

    def forget(self, line: str) -> None:
        """The line has been answered."""
        self._losses.pop(line, None)
