import asyncio
import gc
from typing import Any

import pytest

from openai_server.store.database import to_its_end


async def test_a_cancelled_task_gives_up_the_result() -> None:
    """asyncio logs errors of futures that nothing waits for."""
    logged: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: logged.append(context))
    for error in (None, ValueError("lost")):
        future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(to_its_end(future))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not future.cancelled()
        if error is None:
            future.set_result(1)
        else:
            future.set_exception(error)
        await asyncio.sleep(0)
        del future, task
    gc.collect()
    assert logged == []


async def test_results_and_errors_are_passed_on() -> None:
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    future.set_result(1)
    assert await to_its_end(future) == 1
    failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    failed.set_exception(ValueError("lost"))
    with pytest.raises(ValueError, match="lost"):
        await to_its_end(failed)
