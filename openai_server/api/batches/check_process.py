"""Has an input file checked by a process of its own: parsing 200 MB would hold up the event loop for seconds.

It is a separate program, as gRPC does not survive a fork. Neither side has more than a piece of the file in memory.
"""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import msgspec

from openai_server.api.batches.check_frames import OUT_OF_MEMORY, SIZE, Limits
from openai_server.api.batches.checking import MAX_LINES, Checked
from openai_server.processes.spawn import spawn

log = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-m", "openai_server.api.batches.check_helper")
PROCESSOR_SECONDS = 120.0
"""Processor time for a file. 200 MB take a few seconds."""
_BASE_MEMORY = 512 << 20
"""Bytes of address space: the program, and 50,000 ids."""
_MEMORY_PER_LINE_BYTE = 8
_READ_AHEAD = 1 << 20
"""Bytes of results that may be buffered before they are read."""
END_SECONDS = 1.0
"""Time in which a process whose socket is closed must end."""


class CheckFailed(Exception):
    """The process ended before the end of the file. `is_files`: the file needs too much time or memory, rather than
    that the process can't run at the moment."""

    def __init__(self, *, is_files: bool) -> None:
        super().__init__()
        self.is_files = is_files


class _Process(NamedTuple):
    process: "subprocess.Popen[bytes]"
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


@asynccontextmanager
async def checking(
    pieces: AsyncIterator[bytes],
    endpoint: str,
    *,
    max_line_bytes: int,
    max_lines: int = MAX_LINES,
    seconds: float = PROCESSOR_SECONDS,
    program: Sequence[str] = PROGRAM,
) -> AsyncIterator[AsyncIterator[Checked]]:
    """The parts of the result as they come, the last one with `is_end`. Each is small enough for the event loop. The
    iterator raises CheckFailed, and what `pieces` raises."""
    memory = _BASE_MEMORY + _MEMORY_PER_LINE_BYTE * max_line_bytes
    limits = Limits(endpoint, max_line_bytes, max_lines, seconds, memory)
    async with _running(program) as helper:
        feeding = asyncio.create_task(_feed(helper.writer, limits, pieces))
        try:
            yield _parts(helper, feeding)
        finally:
            feeding.cancel()  # an error ends the check before the end of the file
            await asyncio.wait([feeding])


async def _parts(helper: _Process, feeding: asyncio.Task[None]) -> AsyncIterator[Checked]:
    try:
        part = Checked()
        while not part.is_end:
            (n_bytes,) = SIZE.unpack(await helper.reader.readexactly(SIZE.size))
            part = msgspec.msgpack.decode(await helper.reader.readexactly(n_bytes), type=Checked)
            yield part
    except (asyncio.IncompleteReadError, ConnectionError) as error:
        if feeding.done() and (reason := feeding.exception()) is not None:
            raise reason from error
        status = await _end(helper)
        log.warning("the process that checks the input file of a batch ended with status %s", status)
        raise CheckFailed(is_files=status in (OUT_OF_MEMORY, -signal.SIGPROF)) from error


async def _feed(writer: asyncio.StreamWriter, limits: Limits, pieces: AsyncIterator[bytes]) -> None:
    try:
        await _send(writer, msgspec.msgpack.encode(limits))
        async for piece in pieces:
            if piece:
                await _send(writer, piece)
        await _send(writer, b"")
    except ConnectionError:
        pass  # the process has ended, which `_parts` reports
    except Exception:
        writer.close()  # ends the process
        raise


async def _send(writer: asyncio.StreamWriter, message: bytes) -> None:
    writer.write(SIZE.pack(len(message)))
    writer.write(message)
    await writer.drain()


@asynccontextmanager
async def _running(program: Sequence[str]) -> AsyncIterator[_Process]:
    process, own_end = spawn(program)
    reader, writer = await asyncio.open_unix_connection(sock=own_end, limit=_READ_AHEAD)
    helper = _Process(process, reader, writer)
    try:
        yield helper
    finally:
        await asyncio.shield(_end(helper))


async def _end(helper: _Process) -> int:
    """Ends the process and returns its exit status. A negative one is the signal that ended it, SIGKILL if it was still
    running."""
    helper.writer.close()
    return await asyncio.to_thread(_wait, helper.process)


def _wait(process: "subprocess.Popen[bytes]") -> int:
    with suppress(subprocess.TimeoutExpired):
        return process.wait(END_SECONDS)
    process.kill()
    return process.wait()
