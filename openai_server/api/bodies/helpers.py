"""Helper processes that decode and validate large bodies, since orjson holds the interpreter of its own process.

They are separate programs, as gRPC does not survive a fork. They start when needed and end after some idle time, so
they cost nothing on a server without large bodies.
"""

import asyncio
import logging
import pickle
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

from openai_server.access.admission import Ticket
from openai_server.access.turns import Turns
from openai_server.api.bodies.frames import JOB, READY, RESULT, Limits, Refusal
from openai_server.api.bodies.parsers import Parse, R, name_of
from openai_server.core.errors import BodyTooComplex, InternalError, InvalidRequest, Unavailable
from openai_server.processes.spawn import spawn

log = logging.getLogger(__name__)

PROCESSES = 2
"""Maximum number of helper processes, for each serving process."""
MAX_WAITING = 64
"""Maximum number of bodies in the queue for a helper process."""
QUEUE_TIMEOUT = 10.0
"""Seconds that a body may wait for a helper process."""
PROCESSOR_SECONDS = 5.0
"""Processor time for one body. A million values take half a second."""
IDLE_SECONDS = 30.0
"""Seconds without work after which a helper process ends."""
PROGRAM = (sys.executable, "-m", "openai_server.api.bodies.helper")
_UNAVAILABLE = "The server can't decode a body of this size at the moment; please try again."
_READ_AHEAD = 1 << 20
"""Bytes of a result that may be buffered before they are read."""


@dataclass(slots=True, eq=False)
class _Helper:
    process: "subprocess.Popen[bytes]"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    retirement: asyncio.TimerHandle | None = None
    """Timer that ends the process; None until it has been idle for the first time."""


class Helpers:
    """A pool of helper processes. `program` is the command that starts one."""

    def __init__(
        self,
        limits: Limits,
        *,
        program: Sequence[str] = PROGRAM,
        processes: int = PROCESSES,
        queue_timeout: float = QUEUE_TIMEOUT,
    ) -> None:
        self._limits = limits
        self._program = program
        self._turns = Turns(processes, waiting=MAX_WAITING, queue_timeout=queue_timeout)
        self._idle: list[_Helper] = []
        self._running: set[_Helper] = set()
        self._jobs: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def run(self, parse: Parse[R], body: bytes | bytearray, caller: str) -> R:
        """The validated request. Raises InvalidRequest, BodyTooComplex, Overloaded, Unavailable."""
        ticket = await self._turns.take(caller)
        # A job continues after its client has left: ending the process would cost more than finishing the job.
        job = asyncio.create_task(self._job(ticket, name_of(parse), body))
        self._jobs.add(job)
        job.add_done_callback(self._jobs.discard)
        job.add_done_callback(lambda job: job.cancelled() or job.exception())
        result = await asyncio.shield(job)
        if not isinstance(result, Refusal):
            return cast(R, result)
        if result.status == 500:
            log.error("a helper process could not decode a body: %s", result.message)
            raise InternalError
        raise InvalidRequest(result.message, param=result.param, code=result.code)

    async def close(self) -> None:
        """Ends all processes, including those at work."""
        self._closed = True
        for job in list(self._jobs):
            job.cancel()
        if self._jobs:
            await asyncio.wait(self._jobs)
        for helper in [*self._idle, *self._running]:
            await self._end(helper)

    # ---- One job

    async def _job(self, ticket: Ticket, parser: str, body: bytes | bytearray) -> Any:
        helper: _Helper | None = None
        try:
            helper = self._idle.pop() if self._idle else await self._start()
            result = await self._exchange(helper, parser, body)
            self._rest(helper)
            return result
        except (asyncio.IncompleteReadError, OSError) as error:
            raise await self._lost(helper) from error
        except BaseException:
            if helper is not None:
                await self._end(helper)
            raise
        finally:
            self._turns.give_back(ticket)

    async def _exchange(self, helper: _Helper, parser: str, body: bytes | bytearray) -> Any:
        if helper.retirement is not None:
            helper.retirement.cancel()
        name = parser.encode()
        helper.writer.write(JOB.pack(len(name), len(body)) + name)
        helper.writer.write(body)
        (size,) = RESULT.unpack(await helper.reader.readexactly(RESULT.size))
        return pickle.loads(await helper.reader.readexactly(size))

    async def _lost(self, helper: _Helper | None) -> Exception:
        """The error for a job whose process ended."""
        status = None if helper is None else await self._end(helper)
        if status == -signal.SIGKILL or status is None:
            log.error("a helper process for large bodies was killed or can't be reached")
            return Unavailable(_UNAVAILABLE)
        log.warning("a body took too much processor time or memory to decode (status %s)", status)
        return BodyTooComplex()

    # ---- Processes

    async def _start(self) -> _Helper:
        process, own_end = spawn(self._program)
        reader, writer = await asyncio.open_unix_connection(sock=own_end, limit=_READ_AHEAD)
        limits = pickle.dumps(self._limits)
        writer.write(RESULT.pack(len(limits)) + limits)
        helper = _Helper(process, reader, writer)
        self._running.add(helper)
        try:
            await reader.readexactly(len(READY))
        except BaseException as error:
            status = await self._end(helper)
            if isinstance(error, asyncio.CancelledError):
                raise
            log.error("a helper process for large bodies can't start (status %s)", status)
            raise Unavailable(_UNAVAILABLE) from error
        log.debug("helper process %d has started", process.pid)
        return helper

    def _rest(self, helper: _Helper) -> None:
        helper.retirement = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._retire, helper)
        self._idle.append(helper)

    def _retire(self, helper: _Helper) -> None:
        if helper in self._idle:
            job = asyncio.ensure_future(self._end(helper))
            self._jobs.add(job)
            job.add_done_callback(self._jobs.discard)

    async def _end(self, helper: _Helper) -> int | None:
        """Ends the process and returns its exit status. A negative one is the signal that ended it, SIGKILL if it was
        still running."""
        if helper in self._idle:
            self._idle.remove(helper)
        self._running.discard(helper)
        if helper.retirement is not None:
            helper.retirement.cancel()
        helper.writer.close()
        with suppress(subprocess.TimeoutExpired):  # a process whose socket is closed ends by itself
            await asyncio.to_thread(helper.process.wait, 0.2)
        helper.process.kill()
        return await asyncio.to_thread(helper.process.wait)
