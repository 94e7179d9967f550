import asyncio
import logging
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click
import pytest

from openai_server.config import Config
from openai_server.core.model_files import TemplateFile
from openai_server.http.supervisor import Supervisor

pytestmark = pytest.mark.slow

SERVES = "print('started', flush=True); sys.stdin.read()"
"""Serves until its parent ends or a signal arrives."""


def child(code: str) -> list[str]:
    return [sys.executable, "-c", f"import os, pickle, signal, socket, sys\n{code}"]


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


class Log(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self._lines = asyncio.Queue[str]()

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.put_nowait(record.getMessage())

    async def line(self) -> str:
        return await asyncio.wait_for(self._lines.get(), 30)


@pytest.fixture
async def log() -> AsyncIterator[Log]:
    log = Log()
    logger = logging.getLogger("openai_server.http.supervisor")
    logger.addHandler(log)
    yield log
    logger.removeHandler(log)


async def test_a_process_that_cannot_start_ends_the_supervisor(listener: socket.socket, tmp_path: Path) -> None:
    # the second process finds the file of the first
    code = f"try: os.open({str(tmp_path / 'taken')!r}, os.O_CREAT | os.O_EXCL)\nexcept OSError: sys.exit(7)\n{SERVES}"
    supervisor = Supervisor(2, Config(), [listener], program=child(code))
    with pytest.raises(click.ClickException, match="can't start"):
        await asyncio.wait_for(supervisor.run(), 30)


@pytest.mark.parametrize(
    ("dies", "status"),
    [("print('started', flush=True); sys.exit(5)", 5), ("os.kill(os.getpid(), signal.SIGKILL)", -9)],
)
async def test_a_dead_process_is_replaced_after_a_growing_pause(
    listener: socket.socket, log: Log, dies: str, status: int
) -> None:
    supervisor = Supervisor(1, Config(), [listener], program=child(dies))
    running = asyncio.create_task(supervisor.run())
    for pause in ("0.5", "1"):
        line = await log.line()
        assert line.startswith("worker process ")
        assert line.endswith(f" ended with status {status}; starting another one in {pause} s")
    supervisor.end()
    await asyncio.wait_for(running, 30)


async def test_all_processes_get_the_socket_and_the_configuration(listener: socket.socket) -> None:
    config = Config(model_alias={"a": "b"}, chat_template={"": TemplateFile("file", "{{ messages }}" * 100_000)})
    code = """
config = pickle.load(sys.stdin.buffer)
connection, _ = socket.socket(fileno=int(sys.argv[1])).accept()
connection.sendall(b"%d %d" % (os.getpid(), len(config.chat_template[''].source)))
connection.close()
"""
    supervisor = Supervisor(2, config, [listener], program=child(code + SERVES))
    running = asyncio.create_task(supervisor.run())
    replies = []
    async with asyncio.timeout(30):
        for _ in range(2):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            replies.append((await reader.read()).split())
            writer.close()
        supervisor.end()
        await running
    assert replies[0][0] != replies[1][0]
    assert [length for _, length in replies] == [b"1400000"] * 2
