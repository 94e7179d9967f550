"""Files that others replace while we run: certificates, keys.

They are looked at every few seconds. Kubernetes swaps a symlink above the file, which no watch on the file itself
would see.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds."""

Signature = tuple[tuple[int, int, int, int] | None, ...]


def signature(paths: Sequence[Path]) -> Signature:
    """Differs if one of the files (those that symlinks lead to) does; None is a file that is not there."""
    return tuple(map(_signature, paths))


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


async def follow(paths: Sequence[Path], seen: Signature, changed: Callable[[], None]) -> None:
    """Calls `changed`, in a thread, whenever the files differ from those that were `seen`. Runs until cancelled.

    What `changed` raises is logged once: what there was before goes on, and it is tried again.
    """
    names, told = ", ".join(map(str, paths)), ""
    while True:
        await asyncio.sleep(INTERVAL)
        now = await asyncio.to_thread(signature, paths)
        if now == seen:
            continue
        try:
            await asyncio.to_thread(changed)
        except Exception as error:  # such as a file that is half written, or no free file descriptor at the moment
            if told != str(error):
                told = str(error)
                log.error("%s: keeping what was there before: %s", names, error)
        else:
            seen, told = now, ""
            log.info("%s: read again", names)
