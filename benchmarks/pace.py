"""Prompts that set the pace of the stand-ins for a model, and a common clock for their steps."""

from __future__ import annotations

import asyncio
import re

TEXT = " ~ok"
"""Text of a token; the load generator counts its tilde."""


def prompt(tokens: int, step_ms: float) -> str:
    """The prompt for `tokens` tokens, one every `step_ms` milliseconds; 0: as fast as the client reads."""
    return f"tokens={tokens} step_ms={step_ms}"


def parse(text: str) -> tuple[int, float]:
    """(tokens, seconds per step) of a prompt; (1, 0.0) for any other text."""
    match = re.search(r"tokens=(\d+) step_ms=([\d.]+)", text)
    return (int(match[1]), float(match[2]) / 1e3) if match else (1, 0.0)


class Beat:
    """Wakes all tasks that wait for a step of the same length together, as an engine's step does."""

    def __init__(self) -> None:
        self._next: dict[float, asyncio.Future[None]] = {}
        self._last: dict[float, int] = {}
        """Number of the last step, by the step's length in seconds."""

    async def step(self, seconds: float) -> None:
        future = self._next.get(seconds)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._next[seconds] = loop.create_future()
            # Aligned to the clock, so that the work of a step does not make it longer; timers may be early.
            number = max(int(loop.time() / seconds), self._last.get(seconds, 0)) + 1
            self._last[seconds] = number
            loop.call_at(number * seconds, self._wake, seconds)
        await asyncio.shield(future)

    def _wake(self, seconds: float) -> None:
        self._next.pop(seconds).set_result(None)
