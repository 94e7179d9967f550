"""Reports the state and the sizes of the store as metrics."""

import asyncio
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from openai_server.core.store_errors import StoreAway
from openai_server.telemetry.store_metrics import StoreMetrics

if TYPE_CHECKING:
    from openai_server.store.store import Store

STATE_INTERVAL = 5.0
"""Seconds between two looks at whether the store answers."""
SIZES_INTERVAL = 60.0
"""Seconds between two counts of what it holds."""
_pause = asyncio.sleep


async def report(store: "Store", metrics: StoreMetrics, clock: Callable[[], float] = time.monotonic) -> None:
    """Keeps the gauges up to date. Runs until cancelled. `clock` gives seconds from any start."""
    due = clock()
    while True:
        if clock() >= due and not store.is_away:
            due = clock() + SIZES_INTERVAL
            await _report_sizes(store, metrics)
        metrics.set_up(not store.is_away)
        await _pause(STATE_INTERVAL)


async def _report_sizes(store: "Store", metrics: StoreMetrics) -> None:
    try:
        files, sizes = await store.files.sizes(), await store.sizes()
    except StoreAway:
        return
    metrics.file_sizes(files=files.files, bytes=files.n_bytes, free=files.free_bytes or 0)
    metrics.sizes(
        responses=sizes.responses,
        conversations=sizes.conversations,
        bytes=sizes.bytes,
        queued=sizes.queued,
        in_progress=sizes.running,
    )
    metrics.batch_sizes(batches=sizes.batches, lines=sizes.batch_lines)
