"""Watches files that are replaced while a program runs, such as certificates and keys.

It compares them every few seconds, because Kubernetes swaps a symlink above the file, which a watch on the file itself
would miss.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between two comparisons."""

Version = tuple[int, int, int, int]
Signature = tuple[Version | None, ...]


def signature(paths: Sequence[Path]) -> Signature:
    """Returns a value that changes with the file that a path and the symlinks above it lead to, per path.

    None: there is no such file.
    """
    return tuple(map(_version, paths))


def _version(path: Path) -> Version | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


async def follow(paths: Sequence[Path], seen: Signature, changed: Callable[[], None]) -> None:
    """Calls `changed` in a thread whenever the files differ from the last signature, first `seen`. Never returns.

    An exception from `changed` is logged once and the call is repeated at the next comparison; until it succeeds, the
    program keeps the old contents.
    """
    names, logged = ", ".join(map(str, paths)), ""
    while True:
        await asyncio.sleep(INTERVAL)
        now = await asyncio.to_thread(signature, paths)
        if now == seen:
            continue
        try:
            await asyncio.to_thread(changed)
        except Exception as error:  # such as a half-written file, or no free file descriptor
            if logged != str(error):
                logged = str(error)
                log.error("%s: keeping the previous contents: %s", names, error)
        else:
            seen, logged = now, ""
            log.info("%s: reloaded", names)
