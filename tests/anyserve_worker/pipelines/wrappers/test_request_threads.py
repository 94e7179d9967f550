"""A request's threads are stopped at any moment, and never after they have left the request."""

import asyncio
import random
import sys
import threading
from collections.abc import Iterator

import pytest

from anyserve_worker.pipelines.wrappers.request_threads import ClientLeft, RequestThreads

N_TRIALS = 400


@pytest.fixture
def _frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("_frequent_switches")
@pytest.mark.parametrize("nested", [False, True])
async def test_a_stop_at_any_moment_ends_the_request_and_not_the_thread(nested: bool) -> None:
    """The thread runs a short function for the request, and then goes on with other work."""
    moments = random.Random(7)
    outcomes: set[str] = set()

    def function(threads: RequestThreads, stopping: threading.Event) -> None:
        while not stopping.is_set():
            pass
        for _ in range(moments.randrange(100)):
            if nested:
                threads.run(len, "")

    def work(threads: RequestThreads, stopping: threading.Event) -> None:
        try:
            threads.run(function, threads, stopping)
            outcomes.add("returned")
        except ClientLeft:
            outcomes.add("stopped")
        try:
            for _ in range(50):
                len("")  # a call, after which Python raises what is pending
        except ClientLeft:
            outcomes.add("stopped too late")

    for _ in range(N_TRIALS):
        threads, stopping = RequestThreads(), threading.Event()
        thread = threading.Thread(target=work, args=(threads, stopping))
        thread.start()
        stopping.set()
        for _ in range(moments.randrange(100)):  # meanwhile the function runs, or returns
            pass
        threads.stop()
        async with asyncio.timeout(20):
            await threads.ended()
        thread.join(20)
        assert not thread.is_alive()
    assert "stopped" in outcomes
    assert "stopped too late" not in outcomes


async def test_a_shielded_call_is_complete() -> None:
    threads, shielded, stopped = RequestThreads(), threading.Event(), threading.Event()
    log: list[str] = []

    def step() -> None:
        shielded.set()
        stopped.wait(20)
        log.append("complete")

    def function() -> None:
        threads.shield(step)
        log.append("not reached")

    def work() -> None:
        try:
            threads.run(function)
        except ClientLeft:
            log.append("stopped")

    thread = threading.Thread(target=work)
    thread.start()
    await asyncio.to_thread(shielded.wait, 20)
    threads.stop()
    stopped.set()
    await threads.ended()
    thread.join(20)
    assert log == ["complete", "stopped"]
    threads.shield(log.clear)  # a thread that isn't the request's, such as the event loop's
    assert not log


async def test_after_a_stop_nothing_begins() -> None:
    threads = RequestThreads()
    threads.stop()
    with pytest.raises(ClientLeft):
        threads.run(len, "")
    await threads.ended()


def test_calls_may_be_nested() -> None:
    threads = RequestThreads()
    assert threads.run(lambda: threads.run(len, "abc") + threads.run(len, "d")) == 4
    with pytest.raises(KeyError):
        threads.run(dict[str, str]().__getitem__, "missing")
    assert threads._depths == {}
