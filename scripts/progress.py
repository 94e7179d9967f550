"""One line with the progress of an installation, read from the output of pip and uv.

A terminal shows it redrawn in place; other outputs get a plain line every PLAIN_LINE_S seconds.
"""

from __future__ import annotations

import re
import shutil
import time
from typing import TextIO

BAR_WIDTH = 24
REDRAW_S = 0.5
PLAIN_LINE_S = 20.0

# ninja prints "[74/88] c++ …", and pip indents it.
NINJA_STEP = re.compile(r"\s*\[(\d+)/(\d+)\] ")
UV_PREPARED = re.compile(r"Prepared (\d+) packages? in ")
DOWNLOAD = re.compile(r"\s*Downloading (\S+?)(?:-\d\S*)? \(")


class Activity:
    """The current step of pip or uv, from the lines of its output. PURE."""

    def __init__(self) -> None:
        self.text = "resolving packages"
        self.done = 0
        self.total = 0

    def feed(self, line: str) -> None:
        if match := NINJA_STEP.match(line):
            self.text, self.done, self.total = "compiling llama.cpp", int(match[1]), int(match[2])
        elif match := DOWNLOAD.match(line):
            self._doing("downloading " + match[1].rsplit("/", 1)[-1])
        elif "Building wheel for llama-cpp-python" in line and "started" in line:
            self._doing("configuring llama.cpp")
        elif match := UV_PREPARED.match(line):
            self._doing(f"installing {match[1]} packages")

    def _doing(self, text: str) -> None:
        self.text, self.done, self.total = text, 0, 0

    def line(self, elapsed_s: float) -> str:
        clock = f"{int(elapsed_s) // 60}:{int(elapsed_s) % 60:02d}"
        if not self.total:
            return f"{self.text} … {clock}"
        filled = BAR_WIDTH * self.done // self.total
        bar = "█" * filled + "░" * (BAR_WIDTH - filled)
        return f"{self.text} {bar} {100 * self.done // self.total:3d}% ({self.done} of {self.total}) {clock}"


class ProgressLine:
    """Shows an activity on a stream. Call `tick` about every REDRAW_S seconds."""

    def __init__(self, stream: TextIO, activity: Activity) -> None:
        self._stream = stream
        self._activity = activity
        self._started = time.monotonic()
        self._last_plain = self._started
        self._live = stream.isatty()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    def tick(self) -> None:
        line = self._activity.line(self.elapsed_s)
        if self._live:
            # Cut to the width: a wrapped line can't be redrawn in place.
            self._write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1])
        elif time.monotonic() - self._last_plain >= PLAIN_LINE_S:
            self._last_plain = time.monotonic()
            self._write(line + "\n")

    def clear(self) -> None:
        if self._live:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
