import asyncio
import os

from anyserve_worker.llama import memory
from tests.ops.census import census

PIECES, PIECE = 200_000, 700
"""Number of pieces and bytes of each: larger than the objects in Python's own pools, 140 MB in total."""
MIN_FREED_MIB = 100
"""Memory that has to be given back."""


async def test_freed_memory_is_returned_to_the_system() -> None:
    """Although a few pieces between the freed ones stay in use."""
    pieces = [bytes([i % 256]) * PIECE for i in range(PIECES)]
    kept = pieces[:: PIECES // 100]
    full = census(os.getpid()).resident
    pieces.clear()
    housekeeping = asyncio.create_task(memory.return_unused(interval=0.01))
    for _ in range(1000):
        if census(os.getpid()).resident <= full - MIN_FREED_MIB:
            break
        await asyncio.sleep(0.02)
    housekeeping.cancel()
    assert census(os.getpid()).resident <= full - MIN_FREED_MIB
    assert len(kept) == 100
