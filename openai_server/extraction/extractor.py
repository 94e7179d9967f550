"""Reads files in processes with limits: small plain text at once, everything else apart from the server.

The processes are separate programs, as gRPC does not survive a fork. Each reads one file, so that a file has no effect
on the next one, which may be another caller's.
"""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import Sequence

from openai_server.access.turns import Turns
from openai_server.core.errors import Unavailable
from openai_server.extraction.errors import NO_TEXT, TOO_MUCH_MEMORY, TOO_SLOW, MissingPackage, Unreadable
from openai_server.extraction.extract import extracted
from openai_server.extraction.frames import FAILED, JOB, MISSING, RESULT, TEXT, UNREADABLE, Limits
from openai_server.extraction.helper import NO_MEMORY
from openai_server.extraction.kinds import Kind, kind_of
from openai_server.processes.spawn import spawn

log = logging.getLogger(__name__)

PROCESSES = 2
"""Maximum number of processes, for each serving process."""
MAX_WAITING = 64
"""Maximum number of files in the queue for a process."""
QUEUE_TIMEOUT = 30.0
"""Seconds that a file may wait for a process."""
WALL_SECONDS = 30.0
"""Time for one file, from the start of its process."""
INLINE_BYTES = 128 << 10
"""Plain text of at most this size is decoded at once, in about a millisecond."""
PROGRAM = (sys.executable, "-m", "openai_server.extraction.helper")
_READ_AHEAD = 1 << 20
"""Bytes of a result that may be buffered before they are read."""
_UNAVAILABLE = "The server can't read files at the moment; please try again."


class Extractor:
    """Reads files; callers take turns. `program` is the command that starts a process, `seconds` the time for one file
    with all that it waits for."""

    def __init__(
        self,
        limits: Limits = Limits(),  # noqa: B008
        *,
        program: Sequence[str] = PROGRAM,
        seconds: float = WALL_SECONDS,
        processes: int = PROCESSES,
        queue_timeout: float = QUEUE_TIMEOUT,
    ) -> None:
        self.limits = limits
        self._program = program
        self._seconds = seconds
        self._turns = Turns(processes, waiting=MAX_WAITING, queue_timeout=queue_timeout)

    async def text(self, data: bytes, name: str, caller: str) -> str:
        """The text of the file. Raises Unreadable, MissingPackage, Overloaded and Unavailable."""
        if len(data) <= INLINE_BYTES and kind_of(data, name) is Kind.TEXT:
            return extracted(data, name, self.limits.text)
        ticket = await self._turns.take(caller)
        try:
            return await self._read(data, name)
        finally:
            self._turns.give_back(ticket)

    async def _read(self, data: bytes, name: str) -> str:
        process, own_end = spawn(self._program, is_silent=True)  # a hostile file must not write to the log
        writer: asyncio.StreamWriter | None = None
        try:
            async with asyncio.timeout(self._seconds):
                reader, writer = await asyncio.open_unix_connection(sock=own_end, limit=_READ_AHEAD)
                outcome, text = await self._exchange(reader, writer, data, name)
        except TimeoutError:
            raise Unreadable(TOO_SLOW) from None
        except (asyncio.IncompleteReadError, OSError) as error:
            raise await self._lost(process) from error
        finally:
            if writer is not None:
                writer.close()
            await _end(process)
        if outcome == TEXT:
            return text
        if outcome == FAILED:
            log.warning("a file could not be read: %s", text)
            raise Unreadable(NO_TEXT)
        raise Unreadable(text) if outcome == UNREADABLE else MissingPackage(text)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes, name: str
    ) -> tuple[bytes, str]:
        encoded = name.encode(errors="replace")
        writer.write(JOB.pack(*self.limits, len(encoded), len(data)) + encoded)
        writer.write(data)
        outcome, size = RESULT.unpack(await reader.readexactly(RESULT.size))
        if outcome not in (TEXT, UNREADABLE, MISSING, FAILED) or size > self.limits.text:
            raise OSError("the process wrote something else than a result")
        return outcome, (await reader.readexactly(size)).decode()

    async def _lost(self, process: "subprocess.Popen[bytes]") -> Exception:
        """The error for a file whose process ended without a result."""
        status = await asyncio.to_thread(process.wait)
        if status == -signal.SIGPROF:
            return Unreadable(TOO_SLOW)
        if status in (NO_MEMORY, -signal.SIGSEGV, -signal.SIGABRT):
            return Unreadable(TOO_MUCH_MEMORY)
        log.error("a process that reads files ended with status %d", status)
        return Unavailable(_UNAVAILABLE)


async def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    await asyncio.to_thread(process.wait)
