"""Compiles guides in a separate process first, because a bad guide may end that process. The worker's side.

`trial_server.py` is the other side, and gives the reasons.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

from anyserve_worker.core.errors import Draining, TrialLost, TrialOverrun
from anyserve_worker.guides import trial_server
from anyserve_worker.guides.translation import GrammarError
from anyserve_worker.guides.trial_server import ANSWER, COMMAND, END, FORK, LENGTH

WALL_SECONDS = 20.0
"""Longest wait for a result. A trial's limit is processor time, which takes longer on a busy machine."""
TOO_COMPLEX = "too complex: it takes too much time or memory to compile"


class Trials:
    """The trial processes for the guides of one vocabulary. Safe from any thread; each `run` has its own process."""

    def __init__(self, n_vocab: int, control: Sequence[bytes]) -> None:
        """`control`: the names of the control tokens."""
        self._vocabulary = json.dumps([n_vocab, [name.decode(errors="replace") for name in control]]).encode()
        self._lock = threading.Lock()
        """Guards `_server`, the commands sent to it, and `_idle`."""
        self._server: _Server | None = None
        self._idle: list[_Trial] = []
        self._closed = False
        self.n_forked = 0

    def start(self) -> None:
        """Starts the server, so that the first guide does not wait for it."""
        with self._lock:
            self._started()

    def run(self, language: str, source: str, seconds: float) -> str:
        """Returns the guide in llguidance's own form, if it compiles within `seconds` of processor time.

        Raises GrammarError, TrialOverrun, TrialLost or Draining.
        """
        trial, result = self._take(), None
        try:
            result = trial.compile(language, source, seconds)
        finally:
            if result is None:
                status = self._end(trial)
            else:
                with self._lock:
                    self._idle.append(trial)
        if result is None:
            raise self._verdict(status)
        if "grammar" not in result:
            raise GrammarError(result.get("error", "it cannot be compiled"))
        return result["grammar"]

    def close(self) -> None:
        """Kills the server and all trials."""
        self._closed = True
        if server := self._server:
            server.kill()  # This also ends the calls that hold the lock.
        with self._lock:
            if self._server:
                self._discard(self._server)
            for trial in self._idle:
                trial.close()
            self._idle.clear()

    # ---- Inside

    def _take(self) -> "_Trial":
        with self._lock:
            while self._idle:
                trial = self._idle.pop()
                if trial.alive:
                    return trial
                self._wait_for(trial)
            for _ in range(2):
                server = self._started()
                try:
                    return self._fork(server)
                except OSError:  # Another process killed the server.
                    self._discard(server)
            raise TrialLost

    def _fork(self, server: "_Server") -> "_Trial":
        worker_end, child_end = socket.socketpair()
        with child_end:
            try:
                trial = _Trial(worker_end, server, server.send(FORK, descriptor=child_end.fileno()))
            except BaseException:
                worker_end.close()
                raise
        self.n_forked += 1
        return trial

    def _started(self) -> "_Server":
        if self._closed:
            raise Draining("the worker is shutting down")
        if self._server is None:
            self._server = _Server(self._vocabulary)
        return self._server

    def _end(self, trial: "_Trial") -> int | None:
        with self._lock:
            return self._wait_for(trial)

    def _wait_for(self, trial: "_Trial") -> int | None:
        """Ends a trial and returns its exit status; None if unknown."""
        trial.close()
        if trial.server is not self._server:
            return None  # It ended with its server.
        try:
            return trial.server.send(END, trial.pid)
        except OSError:
            self._discard(trial.server)
            return None

    def _discard(self, server: "_Server") -> None:
        if server is self._server:
            self._server = None
        server.kill()
        server.free()

    def _verdict(self, status: int | None) -> Exception:
        """Returns the error for a trial that ended without a result."""
        if self._closed:
            return Draining("the worker is shutting down")
        if status == -signal.SIGPROF:
            return TrialOverrun()
        if status is None or status in (-signal.SIGKILL, -signal.SIGTERM):
            return TrialLost()
        return GrammarError(TOO_COMPLEX)  # The stack or the memory was exhausted.


class _Server:
    """The process that forks trials. Only `kill` is thread-safe."""

    def __init__(self, vocabulary: bytes) -> None:
        self._commands, child_end = socket.socketpair()
        self._commands.settimeout(WALL_SECONDS)
        with child_end:
            self._process = subprocess.Popen(
                [sys.executable, "-m", trial_server.__name__],
                stdin=child_end.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                process_group=0,
            )
        with suppress(OSError):  # `send` raises the error.
            self._commands.sendall(LENGTH.pack(len(vocabulary)) + vocabulary)

    def send(self, command: bytes, argument: int = 0, *, descriptor: int | None = None) -> int:
        """Returns the server's answer. Raises OSError if the server is gone."""
        descriptors = [] if descriptor is None else [descriptor]
        socket.send_fds(self._commands, [COMMAND.pack(command, argument)], descriptors)
        answer = b""
        while len(answer) < ANSWER.size:
            part = self._commands.recv(ANSWER.size - len(answer))
            if not part:
                raise ConnectionResetError
            answer += part
        return int(ANSWER.unpack(answer)[0])

    def kill(self) -> None:
        """Kills the server and its trials. Call it before `free`."""
        if self._process.returncode is None:  # Otherwise the id may belong to another process.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def free(self) -> None:
        """Releases the process and the socket. Call it once, after `kill`."""
        self._process.wait()
        self._commands.close()


class _Trial:
    """A process that compiles guides one after the other, until one of them ends it."""

    def __init__(self, channel: socket.socket, server: _Server, pid: int) -> None:
        self._channel = channel
        self._channel.settimeout(WALL_SECONDS)
        self._lines = channel.makefile("rw", encoding="utf-8")
        self.server = server
        self.pid = pid

    @property
    def alive(self) -> bool:
        """Whether the process still runs. Only valid between two guides, when it sends nothing."""
        self._channel.setblocking(False)
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._channel.settimeout(WALL_SECONDS)

    def compile(self, language: str, source: str, seconds: float) -> dict[str, str] | None:
        """Returns {"grammar": …} or {"error": …}; None if the process ended or did not respond in time."""
        try:
            self._lines.write(json.dumps([language, source, seconds]) + "\n")
            self._lines.flush()
            line = self._lines.readline()
        except OSError:
            return None
        return dict(json.loads(line)) if line.endswith("\n") else None

    def close(self) -> None:
        with suppress(OSError):
            self._lines.close()
        self._channel.close()
