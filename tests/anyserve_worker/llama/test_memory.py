import asyncio
import os

from anyserve_worker.llama import memory
from tests.ops.census import census

PIECES, PIECE = 200_000, 700
"""Larger than the objects that Python keeps in its own pools: 140 MB in all."""
MOST_OF_IT = 100
"""MiB."""


async def test_freed_memory_comes_back() -> None:
    """A few pieces that stay allocated keep the memory from being returned."""
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
