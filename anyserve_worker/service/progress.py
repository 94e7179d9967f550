"""Shows the progress of loading a model: a bar on a terminal, log lines elsewhere."""

import logging
import time
from collections.abc import Callable
from typing import TextIO

log = logging.getLogger(__name__)

BAR_WIDTH = 30
LINE_INTERVAL = 5.0
"""Seconds between log lines."""


def reporter(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Callable[[str], Callable[[float], None]]:
    """Returns a function from a model's name to its progress callback, which takes the loaded fraction, 0 to 1."""
    return lambda name: _bar(stream, name) if stream.isatty() else _lines(name, clock)


def _bar(stream: TextIO, name: str) -> Callable[[float], None]:
    shown = -1

    def report(fraction: float) -> None:
        nonlocal shown
        percent = int(fraction * 100)
        if percent == shown:
            return
        shown = percent
        filled = round(fraction * BAR_WIDTH)
        end = "\n" if fraction >= 1 else ""
        stream.write(f"\rloading {name} [{'#' * filled}{'.' * (BAR_WIDTH - filled)}] {percent:3d} %{end}")
        stream.flush()

    return report


def _lines(name: str, clock: Callable[[], float]) -> Callable[[float], None]:
    started = clock()
    last = started - LINE_INTERVAL
    loaded = False

    def report(fraction: float) -> None:
        nonlocal last, loaded
        now = clock()
        if loaded:
            return
        if fraction >= 1:
            loaded = True
            log.info("loaded %s in %.1f s", name, now - started)
        elif now - last >= LINE_INTERVAL:
            last = now
            log.info("loading %s: %d%%", name, round(fraction * 100))

    return report
