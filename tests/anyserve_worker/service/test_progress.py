"""The progress of loading: a bar on a terminal, log lines elsewhere."""

import io
import logging

import pytest

from anyserve_worker.service.progress import BAR_WIDTH, LINE_INTERVAL, reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_bar_is_redrawn_on_its_line() -> None:
    stream = Terminal()
    report = reporter(stream)("m")
    for fraction in (0, 0.5, 1):
        report(fraction)
    empty, half, full = "." * BAR_WIDTH, "#" * (BAR_WIDTH // 2) + "." * (BAR_WIDTH // 2), "#" * BAR_WIDTH
    expected = [f"\rloading m [{empty}]   0 %", f"\rloading m [{half}]  50 %", f"\rloading m [{full}] 100 %\n"]
    assert stream.getvalue() == "".join(expected)


def test_a_bar_is_drawn_once_a_percent() -> None:
    stream = Terminal()
    report = reporter(stream)("m")
    for i in range(10_001):
        report(i / 10_000)
    report(1)
    assert stream.getvalue().count("\r") == 101
    assert stream.getvalue().count("\n") == 1


def test_log_lines_are_written_at_intervals(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream, clock = io.StringIO(), Clock()
    report = reporter(stream, clock)("m")
    report(0.0)
    clock.now += LINE_INTERVAL - 0.1
    report(0.2)
    clock.now += 0.1
    report(0.256)
    report(0.3)
    clock.now += 2.5
    report(1.0)
    assert caplog.messages == ["loading m: 0%", "loading m: 26%", "loaded m in 7.5 s"]
    assert not stream.getvalue()


def test_the_end_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    stream, clock = io.StringIO(), Clock()
    report = reporter(stream, clock)("m")
    for _ in range(3):
        report(1.0)
        clock.now += 60
    assert caplog.messages == ["loaded m in 0.0 s"]


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["file", "terminal"])
def test_each_model_has_its_own_progress(stream: io.StringIO, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    reporter_of = reporter(stream, Clock())
    first, second = reporter_of("first"), reporter_of("second")
    first(1)
    second(1)
    lines = caplog.messages or stream.getvalue().splitlines()
    assert [line.split()[1] for line in lines if line] == ["first", "second"]


def test_the_bar_is_flushed() -> None:
    class Flushed(Terminal):
        flushes = 0

        def flush(self) -> None:
            self.flushes += 1

    stream = Flushed()
    reporter(stream)("m")(0.5)
    assert stream.flushes == 1
