"""Turns at work beside the event loop: a bounded number at a time, fair between callers, with a bounded wait."""

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from openai_server.access.admission import Admission, State, Ticket
from openai_server.core.errors import Overloaded
from openai_server.core.request_context import current

T = TypeVar("T")


class Turns:
    """`running` at a time, `waiting` in the queue, each for at most `queue_timeout` seconds; 0 is no limit."""

    def __init__(self, running: int, *, waiting: int, queue_timeout: float) -> None:
        self._admission = Admission(running, waiting)
        self._queue_timeout = queue_timeout

    async def take(self, caller: str) -> Ticket:
        """A ticket, which must be given back. Raises Overloaded."""
        ticket = Ticket(caller, urgency=current().tier.urgency)
        self._admission.arrive(ticket)
        try:
            if ticket.state is State.WAITING:
                await decision(ticket, self._queue_timeout)
            if ticket.state is not State.RUNNING:
                raise Overloaded
        except BaseException:
            self.give_back(ticket)
            raise
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        self._admission.leave(ticket)


async def decision(ticket: Ticket, queue_timeout: float) -> None:
    """Returns when the waiting ticket is admitted or refused, or after `queue_timeout` seconds; 0 is no limit."""
    loop = asyncio.get_running_loop()
    decided = loop.create_future()

    def wake() -> None:
        if not decided.done():
            decided.set_result(None)

    ticket.decided = wake
    timer = loop.call_later(queue_timeout, wake) if queue_timeout else None
    try:
        await decided
    finally:
        if timer is not None:
            timer.cancel()


class FairThreads:
    """Threads for work that takes milliseconds. There are few, because each one that computes delays the event loop by
    up to the interpreter's switch interval (serving.SWITCH_INTERVAL)."""

    def __init__(self, n: int, *, name: str, waiting: int, queue_timeout: float) -> None:
        self._turns = Turns(n, waiting=waiting, queue_timeout=queue_timeout)
        self._threads = ThreadPoolExecutor(n, thread_name_prefix=name)

    async def run(self, caller: str, work: Callable[..., T], *args: Any) -> T:
        """The result of `work` for this caller. Raises what `work` raises, and Overloaded."""
        ticket = await self._turns.take(caller)
        loop = asyncio.get_running_loop()

        def over(_: object) -> None:
            with suppress(RuntimeError):  # the loop is closed, and with it all that waited
                loop.call_soon_threadsafe(self._turns.give_back, ticket)

        job = self._threads.submit(contextvars.copy_context().run, work, *args)
        job.add_done_callback(over)  # also without a waiting caller: the thread is busy until then
        return await asyncio.wrap_future(job)
