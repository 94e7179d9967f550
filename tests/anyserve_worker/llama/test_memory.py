import asyncio
import os

from anyserve_worker.llama import memory
from tests.ops.census import census

PIECES, PIECE = 200_000, 700
"""Larger than what Python keeps in pools of its own: 140 MB in all."""
MOST_OF_IT = 100
"""MiB."""


async def test_freed_memory_comes_back() -> None:
    """It is held down by a few pieces that live on."""
    pieces = [bytes([i % 256]) * PIECE for i in range(PIECES)]
    kept = pieces[:: PIECES // 100]
    full = census(os.getpid()).resident
    pieces.clear()
    keeping_house = asyncio.create_task(memory.return_unused(interval=0.01))
    for _ in range(1000):
        if census(os.getpid()).resident <= full - MOST_OF_IT:
            break
        await asyncio.sleep(0.02)
    keeping_house.cancel()
    assert census(os.getpid()).resident <= full - MOST_OF_IT
    assert len(kept) == 100
