"""The parent of several worker processes that accept on the same sockets: it starts, replaces and ends them.

They are separate programs, since gRPC does not survive a fork. They run in process groups of their own, so that Ctrl-C
reaches only the parent, which sends each of them one signal.
"""

import asyncio
import logging
import pickle
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence
from contextlib import suppress

import click

log = logging.getLogger(__name__)

SHORT_LIFE = 10.0
"""Seconds. A process that ran for longer is replaced at once."""
PAUSES = (0.5, 1.0, 2.0, 5.0, 10.0)
"""Seconds before a process that ended within SHORT_LIFE is replaced, by the number of such processes in a row."""


PROGRAM = (sys.executable, "-m", "openai_server.worker_process")


class Supervisor:
    """Keeps `n` processes running. `program` is their command. Each gets the pickled `config`. `ended` is called with
    the process id of each process that has ended.
    """

    def __init__(
        self,
        n: int,
        config: object,
        listeners: Sequence[socket.socket],
        admin: Sequence[socket.socket] = (),
        *,
        program: Sequence[str] = PROGRAM,
        ended: Callable[[int], None] = lambda _: None,
    ) -> None:
        self._n = n
        self._config = pickle.dumps(config)
        self._listeners = listeners
        self._admin = admin
        self._program = program
        self._ended = ended
        self._running: set[Process] = set()
        self._ending = asyncio.Event()
        self._failed = False

    async def run(self) -> None:
        """Runs until `end` is called. Raises ClickException if a process can't start."""
        await asyncio.gather(*(self._keep_running() for _ in range(self._n)))
        if self._failed:
            raise click.ClickException("a worker process can't start")

    def end(self) -> None:
        """Ends all processes after their running requests; at once if it is called a second time."""
        self._ending.set()
        for listener in (*self._listeners, *self._admin):
            listener.close()  # so that no client can connect after the processes have closed theirs
        for process in self._running:
            with suppress(ProcessLookupError):  # it has just ended
                process.terminate()

    async def _keep_running(self) -> None:
        """Keeps one process running until the end."""
        clock = asyncio.get_running_loop().time
        has_started, short_lives = False, 0
        while not self._ending.is_set():
            began = clock()
            process = await self._start()
            if await self._has_started(process):
                has_started = True
                log.info("worker process %d has started", process.pid)
            status = await process.wait()
            self._running.discard(process)
            self._ended(process.pid)
            if self._ending.is_set():
                return
            if not has_started and status >= 0:  # below 0 a signal killed it, and a new process may start
                self._failed = True
                self.end()
                return
            short_lives = short_lives + 1 if clock() - began < SHORT_LIFE else 0
            pause = PAUSES[min(short_lives, len(PAUSES)) - 1] if short_lives else 0.0
            log.error(
                "worker process %d ended with status %d; starting another one in %g s", process.pid, status, pause
            )
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), pause)

    async def _start(self) -> Process:
        fds = [[listener.fileno() for listener in listeners] for listeners in (self._listeners, self._admin)]
        process = await asyncio.create_subprocess_exec(
            *self._program,
            *(",".join(map(str, group)) for group in fds),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=[fd for group in fds for fd in group],
            process_group=0,
        )
        self._running.add(process)
        if self._ending.is_set():
            process.terminate()
        return process

    async def _has_started(self, process: Process) -> bool:
        """Waits until the process has started. False if it ends before that."""
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(self._config)  # stays open: its end shows the process that its parent is gone
        return bool(await process.stdout.readline())
