"""A wrapper stops computing when its client has left, and its threads end."""

import asyncio
import logging
import sys
import threading
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.pipelines.core.pipeline import Pipeline
from anyserve_worker.pipelines.wrappers.threaded import WINDOW
from tests.anyserve_worker.pipelines.wrappers.wrappers import request, started, text, write_wrapper

TIMEOUT = 20
"""Seconds in which something must have happened on a slow machine."""

COMPUTE = """
    import asyncio, threading, time
    from concurrent.futures import ThreadPoolExecutor
    begun, ended, log = threading.Event(), threading.Event(), []
    pool = ThreadPoolExecutor(1)

    def compute():
        begun.set()
        try:
            for _ in range(20_000):
                time.sleep(0.001)
            log.append("computed all")
        finally:
            ended.set()
"""
WRAPPERS = {
    "function": "def run_chat_completion(messages): compute()",
    "generator": """
    def run_chat_completion(messages):
        yield "first"
        compute()
    """,
    "thread of a generator": """
    def run_chat_completion(messages):
        def pieces():
            thread = threading.Thread(target=compute)
            thread.start()
            while thread.is_alive():
                time.sleep(0.001)
            yield "done"
        return pieces()
    """,
    "asyncio.to_thread": """
    async def run_chat_completion_async(messages):
        await asyncio.to_thread(compute)
    """,
    "pool": """
    def run_chat_completion(messages):
        return pool.submit(compute).result()
    """,
    "thread of a pool's function": """
    def run_chat_completion(messages):
        def nested():
            threading.Thread(target=compute).start()
        pool.submit(nested).result()
        while True:
            time.sleep(0.001)
    """,
    "coroutine": """
    async def run_chat_completion_async(messages):
        begun.set()
        try:
            await asyncio.sleep(20)
        finally:
            ended.set()
    """,
    "asynchronous generator": """
    async def run_chat_completion_async(messages):
        begun.set()
        try:
            while True:
                yield "more"
                await asyncio.sleep(0)
        finally:
            ended.set()
    """,
}


def wrapper_module(name: str = "greeter") -> Any:
    return sys.modules[f"{name}.pipeline_wrapper"]


async def read_all(pipeline: Pipeline) -> None:
    async with aclosing(pipeline.answer(request())) as answer:
        async for _ in answer:
            pass


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  # threads change it
            await asyncio.sleep(0.005)


async def leave_while_it_computes(pipeline: Pipeline) -> None:
    module = wrapper_module()
    reading = asyncio.create_task(read_all(pipeline))
    await until(module.begun.is_set)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


@pytest.mark.parametrize("source", WRAPPERS.values(), ids=WRAPPERS.keys())
async def test_the_computation_ends_when_the_client_leaves(
    tmp_path: Path, source: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline, _ = await started(write_wrapper(tmp_path, COMPUTE, source))
    async with asyncio.timeout(TIMEOUT):
        await leave_while_it_computes(pipeline)
    module = wrapper_module()
    assert module.ended.is_set()
    assert not module.log
    await until(lambda: not [thread for thread in threading.enumerate() if thread.name == "wrapper"])
    assert caplog.messages == []
    assert capfd.readouterr() == ("", "")


async def test_a_generator_is_closed_between_two_pieces(tmp_path: Path) -> None:
    source = """
        log = []
        def run_chat_completion(messages):
            try:
                while True:
                    log.append("piece")
                    yield "piece"
            except GeneratorExit:
                log.append("closed")
                raise
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    answer = pipeline.answer(request())
    await anext(answer)
    log = wrapper_module().log
    await until(lambda: len(log) >= WINDOW)
    await asyncio.sleep(0.05)
    assert len(log) <= WINDOW + 2  # it waits for the client
    await answer.aclose()
    assert log[-1] == "closed"


async def test_long_pieces_are_fewer_ahead_of_the_client(tmp_path: Path) -> None:
    source = """
        log = []
        def run_chat_completion(messages):
            while True:
                log.append("piece")
                yield "x" * (1 << 20)
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    answer = pipeline.answer(request())
    await anext(answer)
    await asyncio.sleep(0.1)
    assert len(wrapper_module().log) <= 4
    assert len(str(await anext(answer))) > 1 << 20
    await answer.aclose()


async def test_a_pool_goes_on_with_other_requests(tmp_path: Path) -> None:
    source = """
    def run_chat_completion(messages):
        return pool.submit(compute if not begun.is_set() else lambda: "answered").result()
    """
    pipeline, _ = await started(write_wrapper(tmp_path, COMPUTE, source))
    await leave_while_it_computes(pipeline)
    assert await text(pipeline) == "answered"
    assert len(wrapper_module().pool._threads) == 1


@pytest.mark.parametrize("thread", ["threading.Thread(target=service, daemon=True)", "Service(target=service)"])
async def test_a_librarys_thread_goes_on(tmp_path: Path, thread: str) -> None:
    source = f"""
    class Service(threading.Thread): ...
    served = threading.Event()
    def service():
        while not ended.is_set():
            time.sleep(0.001)
        time.sleep(0.01)
        served.set()
    def run_chat_completion(messages):
        {thread}.start()
        compute()
    """
    pipeline, _ = await started(write_wrapper(tmp_path, COMPUTE, source))
    await leave_while_it_computes(pipeline)
    await until(wrapper_module().served.is_set)


async def test_a_request_ends_only_when_its_thread_does(tmp_path: Path) -> None:
    """Python can't interrupt a C call, so that the request keeps its slot until the call returns."""
    source = """
    lock = threading.Lock()
    def run_chat_completion(messages):
        begun.set()
        with lock:
            pass
        compute()
    """
    pipeline, _ = await started(write_wrapper(tmp_path, COMPUTE, source))
    module = wrapper_module()
    with module.lock:
        reading = asyncio.create_task(read_all(pipeline))
        await until(module.begun.is_set)
        reading.cancel()
        _, pending = await asyncio.wait([reading], timeout=0.1)
        assert pending
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert not module.ended.is_set()


async def test_a_wrapper_that_exits_does_not_end_the_process(tmp_path: Path) -> None:
    source = """
        import sys
        def run_chat_completion(messages): sys.exit("bye")
        async def run_response_async(input_items): sys.exit("bye")
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    for input_items in (None, [{"role": "user", "content": "Hello"}]):
        with pytest.raises(RuntimeError, match="SystemExit"):
            await text(pipeline, request(input_items=input_items))


async def test_a_blocking_function_has_the_requests_context(tmp_path: Path) -> None:
    source = """
        from contextvars import ContextVar
        seen = ContextVar("seen", default="nothing")
        def run_chat_completion(messages):
            seen.set("what the function has set")
            return (seen.get() for _ in range(1))
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "what the function has set"
    assert wrapper_module().seen.get() == "nothing"


async def test_blocking_functions_run_beside_each_other(tmp_path: Path) -> None:
    source = """
        import threading
        barrier = threading.Barrier(3, timeout=20)
        def run_chat_completion(messages):
            barrier.wait()
            return "met"
    """
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    answers = await asyncio.gather(*(text(pipeline) for _ in range(3)))
    assert answers == ["met"] * 3


async def test_other_threads_still_report_their_errors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    source = """
        import threading
        def fail(): raise ValueError("a problem of the wrapper")
        def run_chat_completion(messages):
            thread = threading.Thread(target=fail)
            thread.start()
            thread.join()
            return "answered"
    """
    reported: list[str] = []
    threading.excepthook = lambda arguments: reported.append(str(arguments.exc_value))
    pipeline, _ = await started(write_wrapper(tmp_path, source))
    assert await text(pipeline) == "answered"
    assert reported == ["a problem of the wrapper"]
