"""Pipelines that raise, hang, block, leak, crash or are killed, while another one streams on without a gap."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from anyserve_worker.pipelines import process, served_pipeline
from anyserve_worker.pipelines.limits import Limits
from tests.wire.pipelines import TICKS, WORDS, Server, request, serving, write

LONGEST_GAP = 2.0
"""Seconds between two responses of the pipeline that goes on. The tests share two processors with others."""
UNHARMED = "ticks"
LIMITS = Limits(concurrency=4, idle_timeout=10, stall_timeout=2)


def faulty(statement: str) -> str:
    """A pipeline with a fault after its first word, if the message is `fault`."""
    return f"""
        import asyncio, ctypes, os, time

        hoard = []

        class PipelineWrapper:
            async def run_chat_completion_async(self, model, messages, body):
                async def words():
                    yield "word "
                    if messages[-1]["content"] == "fault":
                        {statement}
                        yield "later "
                return words()
        """


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_pipeline, "MIN_DELAY", 0.05)
    monkeypatch.setattr(process, "STUCK_SECONDS", 0.3)
    monkeypatch.setattr(process, "STOP_SECONDS", 1.0)


@asynccontextmanager
async def beside_ticks(folder: Path, source: str, limits: Limits = LIMITS) -> AsyncIterator[Server]:
    """Serves `source` as `faulty` beside a pipeline that streams during the block, and checks that stream."""
    write(folder, UNHARMED, TICKS)
    write(folder, "faulty", source)
    async with serving(folder, limits) as server:
        stream = await server.stream(request(UNHARMED))
        assert await stream.read()
        pid, gaps, ended = server.pid(UNHARMED), [0.0], asyncio.Event()

        async def read() -> None:
            last = time.monotonic()
            while not ended.is_set():
                assert await stream.read()
                now = time.monotonic()
                gaps.append(now - last)
                last = now

        reading = asyncio.create_task(read())
        yield server
        ended.set()
        await reading
        stream.call.cancel()
        assert not stream.errors
        assert max(gaps) < LONGEST_GAP
        assert server.pid(UNHARMED) == pid


async def recovered(server: Server, pid: int) -> None:
    """Waits until another process than `pid` answers."""
    await server.until(lambda: server.pid("faulty") not in (0, pid))
    assert await server.infer(request("faulty"))


async def test_an_exception_is_in_the_log_and_not_in_the_answer(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with beside_ticks(tmp_path, faulty("raise ValueError('a secret')")) as server:
        pid = server.pid("faulty")
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.text == "word "
        assert stream.error == ("INTERNAL", "The pipeline 'faulty' failed.")
        await server.until(lambda: "a secret" in log_text(caplog))
        assert 'pipeline_wrapper.py", line 11, in words' in log_text(caplog)
        assert server.pid("faulty") == pid
        assert await server.infer(request("faulty"))


def log_text(caplog: pytest.LogCaptureFixture) -> str:
    return "\n".join(f"{record.getMessage()}\n{record.exc_text or ''}" for record in caplog.records)


async def test_a_request_without_output_ends(tmp_path: Path) -> None:
    limits = Limits(concurrency=4, idle_timeout=0.8)
    async with beside_ticks(tmp_path, faulty("await asyncio.Event().wait()"), limits) as server:
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("DEADLINE_EXCEEDED", "the model 'faulty' sent nothing for 0.8 s")
        await server.until(lambda: server.pipelines._served["faulty"].n_running == 0)
        assert await server.infer(request("faulty"))


@pytest.mark.slow
async def test_a_process_whose_event_loop_is_blocked_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with beside_ticks(tmp_path, faulty("time.sleep(60)")) as server:
        pid = server.pid("faulty")
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("UNAVAILABLE", "the process of model 'faulty' has ended")
        assert "its event loop has been blocked for 2 s" in log_text(caplog)
        assert 'pipeline_wrapper.py", line 11 in words' in log_text(caplog)
        await recovered(server, pid)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("os._exit(3)", "exit status 3"),
        ("ctypes.string_at(0)", "SIGSEGV"),
        ("os.kill(os.getpid(), 9)", "SIGKILL"),
    ],
)
async def test_a_process_that_ends_is_started_again(
    tmp_path: Path, statement: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with beside_ticks(tmp_path, faulty(f"print('last words'); {statement}")) as server:
        pid = server.pid("faulty")
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("UNAVAILABLE", "the process of model 'faulty' has ended")
        assert f"the process of pipeline 'faulty' has ended: {reason}" in log_text(caplog)
        assert "last words" in log_text(caplog)
        assert ("Fatal Python error: Segmentation fault" in log_text(caplog)) == (reason == "SIGSEGV")
        await recovered(server, pid)
        assert server.pipelines._served["faulty"].n_restarts == 1


async def test_requests_are_refused_while_the_process_is_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_pipeline, "MIN_DELAY", 0.5)
    async with beside_ticks(tmp_path, WORDS) as server:
        pid = server.pid("faulty")
        os.kill(pid, signal.SIGKILL)
        await server.until(lambda: not server.pid("faulty"))
        reason = "its process has ended and is started again"
        assert (await server.states())["faulty"] == ("UNAVAILABLE", reason)
        stream = await (await server.stream(request("faulty"))).finish()
        assert stream.error == ("UNAVAILABLE", f"model 'faulty' is unavailable: {reason}")
        await recovered(server, pid)
        assert (await server.states())["faulty"] == ("READY", "")


GROWS = faulty("hoard.append(bytearray(88 << 20)); await asyncio.sleep(1.5)")
"""Exceeds a limit of 100 MiB by less than a quarter: the process itself needs some 20 MiB."""


@pytest.mark.slow
async def test_a_process_that_uses_too_much_memory_finishes_its_requests(tmp_path: Path) -> None:
    async with beside_ticks(tmp_path, GROWS, Limits(memory=100)) as server:
        pid = server.pid("faulty")
        stream = await server.stream(request("faulty", "fault"))
        await server.until(lambda: server.pid("faulty") != pid)
        assert (await stream.finish()).text == "word later "
        assert not stream.errors
        await server.until(lambda: not os.path.exists(f"/proc/{pid}"))


@pytest.mark.slow
async def test_a_process_that_uses_far_too_much_memory_is_killed(tmp_path: Path) -> None:
    source = faulty("hoard.append(bytearray(200 << 20)); await asyncio.sleep(60)")
    async with beside_ticks(tmp_path, source, Limits(memory=100)) as server:
        pid = server.pid("faulty")
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error[0] == "UNAVAILABLE"
        await recovered(server, pid)


UNSTOPPABLE = faulty(
    """
                        while True:
                            try:
                                await asyncio.sleep(60)
                            except BaseException:
                                pass""".strip()
)


@pytest.mark.slow
async def test_a_process_full_of_requests_that_don_t_end_is_replaced(tmp_path: Path) -> None:
    async with beside_ticks(tmp_path, UNSTOPPABLE, Limits(concurrency=2)) as server:
        pid = server.pid("faulty")
        for _ in range(2):
            stream = await server.stream(request("faulty", "fault"))
            assert await stream.read()
            stream.call.cancel()
        await recovered(server, pid)
        await server.until(lambda: not os.path.exists(f"/proc/{pid}"))


async def test_requests_that_wait_fail_with_the_process(tmp_path: Path) -> None:
    async with beside_ticks(tmp_path, faulty("await asyncio.sleep(60)"), Limits(concurrency=1)) as server:
        pid = server.pid("faulty")
        running = await server.stream(request("faulty", "fault"))
        assert await running.read()
        waiting = await server.stream(request("faulty"))
        await server.until(lambda: server.pipelines._served["faulty"].n_waiting == 1)
        os.kill(pid, signal.SIGKILL)
        for stream in (running, waiting):
            await stream.finish()
            assert stream.error == ("UNAVAILABLE", "the process of model 'faulty' has ended")
        await recovered(server, pid)


async def test_a_cancelled_request_that_ends_late_frees_its_slot(tmp_path: Path) -> None:
    late = """
                        try:
                            await asyncio.sleep(60)
                        except asyncio.CancelledError:
                            await asyncio.sleep(0.8)
                            raise""".strip()
    async with beside_ticks(tmp_path, faulty(late), Limits(concurrency=2)) as server:
        pid, pipeline = server.pid("faulty"), server.pipelines._served["faulty"]
        for _ in range(2):  # one after the other: never both at once
            stream = await server.stream(request("faulty", "fault"))
            assert await stream.read()
            stream.call.cancel()
            await server.until(lambda: pipeline.n_running == 0)
        assert server.pid("faulty") == pid
        assert await server.infer(request("faulty"))


@pytest.mark.slow
async def test_a_process_that_hangs_at_the_end_is_killed(tmp_path: Path) -> None:
    source = faulty("time.sleep(60)")
    async with beside_ticks(tmp_path, source, Limits(stall_timeout=60)) as server:
        pid = server.pid("faulty")
        stream = await server.stream(request("faulty", "fault"))
        assert await stream.read()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_broken_frame_ends_its_process_and_its_requests(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such as one that a pipeline itself writes to the socket of its process."""
    statement = """
                        import gc, socket
                        from anyserve_worker.pipelines.core import frames
                        for own in [o for o in gc.get_objects() if type(o) is socket.socket]:
                            own.send(frames.encode("error", number=1, status=["x"]))
                        await asyncio.Event().wait()""".strip()
    async with beside_ticks(tmp_path, faulty(statement)) as server:
        pid = server.pid("faulty")
        assert await server.infer(request("faulty"))
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("UNAVAILABLE", "the process of model 'faulty' has ended")
        assert "pipeline 'faulty' sent a broken frame" in log_text(caplog)
        await recovered(server, pid)


@pytest.mark.parametrize(
    "statement",
    ["logging.disable(); raise KeyError('k')", "logging.config.dictConfig({'version': 1}); raise KeyError('k')"],
)
async def test_a_pipeline_can_t_hide_its_errors(
    tmp_path: Path, statement: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with beside_ticks(tmp_path, faulty(f"import logging.config; {statement}")) as server:
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("INTERNAL", "The pipeline 'faulty' failed.")
        await server.until(lambda: "KeyError: 'k'" in log_text(caplog))


async def test_the_reason_of_an_event_loop_that_ends_is_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    statement = """
                        import sys
                        async def leave():
                            sys.exit("no licence")
                        task = asyncio.create_task(leave())
                        await asyncio.sleep(5)""".strip()
    async with beside_ticks(tmp_path, faulty(statement)) as server:
        stream = await (await server.stream(request("faulty", "fault"))).finish()
        assert stream.error == ("UNAVAILABLE", "the process of model 'faulty' has ended")
        await server.until(lambda: "SystemExit: no licence" in log_text(caplog))
        assert 'pipeline_wrapper.py", line 13, in leave' in log_text(caplog)


async def test_a_forked_process_leaves_the_worker_to_its_parent(tmp_path: Path) -> None:
    """The child shares the socket and the files of the event loop."""
    statement = """
                        if not os.fork():
                            yield "child "
                            await asyncio.sleep(60)""".strip()
    async with beside_ticks(tmp_path, faulty(statement)) as server:
        pid = server.pid("faulty")
        for _ in range(3):
            stream = await (await server.stream(request("faulty", "fault"))).finish()
            assert (stream.text, stream.errors) == ("word later ", [])
        for _ in range(20):
            assert await server.infer(request("faulty"))
        assert server.pid("faulty") == pid


async def test_the_same_error_of_requests_has_one_traceback(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with beside_ticks(tmp_path, faulty("raise KeyError('k')")) as server:
        for _ in range(5):
            await (await server.stream(request("faulty", "fault"))).finish()
        await server.until(lambda: log_text(caplog).count("KeyError: 'k'") == 5)
        assert log_text(caplog).count("Traceback") == 1
        assert log_text(caplog).count("a request to 'faulty' failed, as before: KeyError: 'k'") == 4
