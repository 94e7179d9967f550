"""The output of a pipeline's process, as lines of the worker's log."""

import asyncio
import json
import logging
import time
from collections import deque
from typing import Any, cast

from anyserve_common.text import printable
from anyserve_worker.pipelines.tracebacks import Tracebacks

MAX_LINE = 4 << 10
"""Bytes of a line that the pipeline printed; the rest is dropped."""
MAX_RECORD = 256 << 10
"""Bytes of a line with a log record."""
MAX_RECORD_LINES = 200
"""Lines of a traceback."""
LINES_PER_SECOND = 50
BURST = 500
"""Lines that a quiet pipeline may write at once. Further ones are dropped and counted."""
MAX_LINES = 2 * BURST
"""Lines of one read that are looked at one by one. If there are more, those in the middle are dropped."""
PAUSE_SECONDS = 0.05
"""Seconds without reading after output with dropped lines. So the pipeline waits if it writes too fast."""
TAIL_LINES = 50
"""Printed lines without a place in the log that are kept for the case that the process crashes."""
_RECORD = b"\x1e"
"""Begins the line of a log record, see `host/log_lines.py`."""


class _Allowance:
    """Limits the lines of a pipeline: BURST at once, LINES_PER_SECOND for longer."""

    def __init__(self) -> None:
        self._left = float(BURST)
        self._at = time.monotonic()
        self.n_dropped = 0

    def admits(self) -> bool:
        now = time.monotonic()
        self._left = min(float(BURST), self._left + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._left < 1:
            self.n_dropped += 1
            return False
        self._left -= 1
        return True


class ProcessOutput(asyncio.Protocol):
    """Reads the pipe that is stdout and stderr of a process."""

    def __init__(self, pipeline: str, tracebacks: Tracebacks) -> None:
        """`tracebacks`: those of the pipeline that the log has."""
        self.starting = True
        """Whether the pipeline is starting. The worker itself logs in a line why a start has failed."""
        self._tracebacks = tracebacks
        self._fields = {"pipeline": pipeline}
        self._log = logging.getLogger("anyserve_worker.pipelines")
        self._transport: asyncio.ReadTransport | None = None
        self._part = bytearray()
        """The beginning of a line."""
        self._printed, self._records = _Allowance(), _Allowance()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.ended = asyncio.Event()
        """Set when the last line has been read."""

    def close(self) -> None:
        """Reads no more: a program that the process has started may keep the pipe open."""
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.ReadTransport, transport)

    def data_received(self, data: bytes) -> None:
        first, *lines = data.split(b"\n")
        too_many = len(lines) > MAX_LINES
        if too_many:
            lines = self._without_middle(lines)
        self._extend(first)
        for line in lines:
            self._end_line()
            self._extend(line)
        if too_many or self._printed.n_dropped or self._records.n_dropped:
            # Reading what is dropped anyway must not take the worker's time.
            if self._transport:
                self._transport.pause_reading()
            asyncio.get_running_loop().call_later(PAUSE_SECONDS, self._resume)

    def _without_middle(self, lines: list[bytes]) -> list[bytes]:
        """Drops and counts the lines that would not be admitted anyway; records, which are longer, stay."""
        middle = lines[BURST:-TAIL_LINES]
        records = [line for line in middle if line.startswith(_RECORD)]
        self._printed.n_dropped += sum(map(bool, middle)) - len(records)
        return [*lines[:BURST], *records, *lines[-TAIL_LINES:]]

    def _resume(self) -> None:
        if self._transport and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if self._part:
            self._end_line()
        self._report_dropped()
        self.ended.set()

    def log_tail(self) -> None:
        """Logs those of the last printed lines as errors that weren't logged when they were printed."""
        for line in self._tail:
            self._write(logging.ERROR, line)
        self._tail.clear()

    def _extend(self, part: bytes) -> None:
        limit = MAX_RECORD if (self._part or part).startswith(_RECORD) else MAX_LINE
        self._part += part[: limit - len(self._part)]

    def _end_line(self) -> None:
        line = bytes(self._part)
        self._part.clear()
        if line.startswith(_RECORD) and (fields := _record(line[1:])):
            if self._records.admits():
                self._report_dropped()
                self._write_record(fields)
            return
        text = line.decode("utf-8", "replace").rstrip()
        if text:
            if not self._log.isEnabledFor(logging.INFO) or not self._printed.admits():
                self._tail.append(text)
                return
            self._report_dropped()
            self._write(logging.INFO, text)

    def _report_dropped(self) -> None:
        n_dropped = self._printed.n_dropped + self._records.n_dropped
        if n_dropped:
            self._printed.n_dropped = self._records.n_dropped = 0
            self._write(logging.WARNING, f"{n_dropped} lines of its output were dropped")

    def _write_record(self, fields: dict[str, Any]) -> None:
        level, name, message = fields["level"], fields["logger"], fields["message"]
        exception = str(fields.get("exception") or "")
        is_repeated = bool(exception) and not self._tracebacks.is_new(exception)
        if is_repeated:
            if self.starting:
                return
            message = f"{message}, as before: {exception.rpartition(chr(10))[2][:MAX_LINE]}"
        extra = {"fields": {**self._fields, "source": name}}
        record = self._log.makeRecord(self._log.name, level, "", 0, "%s", (message,), None, extra=extra)
        if exception and not is_repeated:
            lines = exception.split("\n")[-MAX_RECORD_LINES:]
            record.exc_text = "\n".join(f"  {printable(line)}" for line in lines)
        if self._log.isEnabledFor(level):
            self._log.handle(record)

    def _write(self, level: int, text: str) -> None:
        self._log.log(level, "%s", text, extra={"fields": self._fields})


def _record(line: bytes) -> dict[str, Any] | None:
    """None: the line is not a record, since another write has come between."""
    try:
        fields = json.loads(line)
        if isinstance(fields["level"], int) and isinstance(fields["logger"], str) and "message" in fields:
            return dict(fields)
    except (ValueError, KeyError, TypeError):
        pass
    return None
