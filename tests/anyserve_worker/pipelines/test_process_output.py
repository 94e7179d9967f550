"""The output of a pipeline's process: floods of lines, and tracebacks that are repeated."""

import json
import logging
import time

import pytest

from anyserve_worker.pipelines import process_output
from anyserve_worker.pipelines.process_output import MAX_LINES, TAIL_LINES, ProcessOutput
from anyserve_worker.pipelines.tracebacks import MAX_TRACEBACKS, REPEAT_SECONDS, Tracebacks

READ_BYTES = 64 << 10
"""Bytes that one read of a pipe may return."""


def record(message: str, **fields: str) -> bytes:
    values = {"level": logging.ERROR, "logger": "x", "message": message, **fields}
    return b"\x1e" + json.dumps(values).encode() + b"\n"


async def test_a_flood_of_lines_costs_little_and_keeps_records_and_the_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    n_read = 0
    end_line = ProcessOutput._end_line

    def count(output: ProcessOutput) -> None:
        nonlocal n_read
        n_read += 1
        end_line(output)

    monkeypatch.setattr(ProcessOutput, "_end_line", count)
    output = ProcessOutput("p", Tracebacks())
    output.data_received(b"a\n" * (READ_BYTES // 4) + record("the record") + b"b\n" * (READ_BYTES // 4) + b"last\n")
    assert n_read <= MAX_LINES
    messages = [entry.getMessage() for entry in caplog.records]
    assert "the record" in messages
    output.log_tail()
    output.connection_lost(None)
    messages = [entry.getMessage() for entry in caplog.records]
    assert messages.count("last") == 1
    n_dropped = sum(int(message.split()[0]) for message in messages if "were dropped" in message)
    n_admitted = sum(entry.levelno == logging.INFO for entry in caplog.records)
    assert n_dropped == READ_BYTES // 4 * 2 + 1 - n_admitted
    assert process_output.BURST <= n_admitted < process_output.BURST + TAIL_LINES
    assert messages.count("b") > TAIL_LINES // 2
    n_read = 0
    output.data_received(b"\n" * READ_BYTES)
    assert n_read <= MAX_LINES


def test_a_traceback_is_new_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    known, now = Tracebacks(), time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert [known.is_new(text) for text in ("a", "b", "a", "b")] == [True, True, False, False]
    now += REPEAT_SECONDS
    assert [known.is_new(text) for text in ("a", "a")] == [True, False]
    assert all(known.is_new(f"{number}") for number in range(MAX_TRACEBACKS))
    assert known.is_new("a")
    assert len(known._logged) == MAX_TRACEBACKS
