"""Files that others replace while a program runs: certificates, keys.

They are compared every few seconds. Kubernetes swaps a symlink above the file, which no watch on the file itself would
see.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds."""

Version = tuple[int, int, int, int]
Signature = tuple[Version | None, ...]


def version(path: Path) -> Version:
    """Changes with the file that a path, or the symlinks above it, lead to. Raises OSError."""
    found = os.stat(path)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def signature(paths: Sequence[Path]) -> Signature:
    """The version of each file; None is a file that is not there."""
    return tuple(map(_version_or_none, paths))


def _version_or_none(path: Path) -> Version | None:
    try:
        return version(path)
    except OSError:
        return None


async def follow(paths: Sequence[Path], seen: Signature, changed: Callable[[], None]) -> None:
    """Calls `changed`, in a thread, whenever the files differ from those that were `seen`. Runs until cancelled.

    What `changed` raises is logged once: what there was before goes on, and it is tried again.
    """
    names, logged = ", ".join(map(str, paths)), ""
    while True:
        await asyncio.sleep(INTERVAL)
        now = await asyncio.to_thread(signature, paths)
        if now == seen:
            continue
        try:
            await asyncio.to_thread(changed)
        except Exception as error:  # such as a file that is half written, or no free file descriptor at the moment
            if logged != str(error):
                logged = str(error)
                log.error("%s: keeping what was there before: %s", names, error)
        else:
            seen, logged = now, ""
            log.info("%s: read again", names)
