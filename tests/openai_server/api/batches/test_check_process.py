"""The process that checks an input file."""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openai_server.api.batches.check_process import CheckFailed, checking
from openai_server.api.batches.checking import GROUP, MAX_ERRORS, Checked
from openai_server.core.store_errors import StoreAway
from tests.openai_server.api.batches.test_checking import ENDPOINT, line


async def pieces_of(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def checked(pieces: AsyncIterator[bytes], **settings: Any) -> list[Checked]:
    async with checking(pieces, ENDPOINT, **{"max_line_bytes": 1 << 20, **settings}) as parts:
        return [part async for part in parts]


def numbered(first: int, n: int) -> bytes:
    return b"".join(line(f"request {i}") + b"\n" for i in range(first, first + n))


@pytest.mark.slow
async def test_parts_come_while_the_file_is_read() -> None:
    more = asyncio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield numbered(0, GROUP)
        await more.wait()
        yield numbered(GROUP, 1)

    async with checking(pieces(), ENDPOINT, max_line_bytes=1 << 20) as parts:
        first = await anext(parts)
        assert (len(first.lines), first.is_end) == (GROUP, False)
        more.set()
        last = await anext(parts)
        assert (len(last.lines), last.is_end, last.n_lines, last.model) == (1, True, GROUP + 1, "tiny")
        assert [part async for part in parts] == []


@pytest.mark.slow
async def test_errors_end_the_check_before_the_file_ends() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x\n"

    *_, last = await checked(endless())
    assert len(last.errors) == MAX_ERRORS


@pytest.mark.slow
async def test_an_error_of_the_file_store_is_raised() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield numbered(0, 1)
        raise StoreAway

    with pytest.raises(StoreAway):
        await checked(broken())


@pytest.mark.slow
async def test_a_file_that_takes_too_long() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * (1 << 20)

    with pytest.raises(CheckFailed) as failed:
        await checked(endless(), seconds=0.05)
    assert failed.value.is_files


@pytest.mark.parametrize("code", ["raise SystemExit(1)", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"])
async def test_a_process_that_cannot_run(code: str) -> None:
    with pytest.raises(CheckFailed) as failed:
        await checked(pieces_of(b"x" * (1 << 20), b"x"), program=(sys.executable, "-S", "-c", code))
    assert not failed.value.is_files


@pytest.mark.slow
async def test_a_check_can_be_cancelled() -> None:
    async def waiting() -> AsyncIterator[bytes]:
        yield numbered(0, GROUP)
        await asyncio.Event().wait()

    async with checking(waiting(), ENDPOINT, max_line_bytes=1 << 20) as parts:
        await anext(parts)
        rest = asyncio.ensure_future(anext(parts))
        await asyncio.sleep(0)
        rest.cancel()
        with pytest.raises(asyncio.CancelledError):
            await rest
