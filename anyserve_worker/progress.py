"""How a model's loading is shown: a bar on a terminal, plain lines elsewhere."""

import time
from collections.abc import Callable
from typing import TextIO

BAR_WIDTH = 30
LINE_INTERVAL = 5.0
"""Seconds between plain lines."""


def reporter(stream: TextIO, clock: Callable[[], float] = time.monotonic) -> Callable[[str], Callable[[float], None]]:
    """Returns a function that gives each model's name a callback for the loaded fraction, 0 to 1."""
    return lambda name: (_bar if stream.isatty() else _lines)(stream, name, clock)


def _bar(stream: TextIO, name: str, clock: Callable[[], float]) -> Callable[[float], None]:
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


def _lines(stream: TextIO, name: str, clock: Callable[[], float]) -> Callable[[float], None]:
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
            stream.write(f"loaded {name} in {now - started:.1f} s\n")
        elif now - last >= LINE_INTERVAL:
            last = now
            stream.write(f"loading {name}: {fraction:.0%}\n")
        stream.flush()

    return report
