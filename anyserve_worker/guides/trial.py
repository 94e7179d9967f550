"""Guides are compiled in a process of their own first, which a bad one may end: the side of the worker.

`trial_server.py` is the other side, and has the reasons.
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
from anyserve_worker.guides.trial_server import ANSWER, END, FORK, LENGTH, ORDER

WALL_SECONDS = 20.0
"""Longest wait for an answer. A trial's limit is processor time, which comes slowly where many want it."""
TOO_COMPLEX = "too complex: it takes too much time or memory to compile"


class Trials:
    """The trial processes for the guides of one vocabulary. Safe from any thread; each `run` has its own process."""

    def __init__(self, n_vocab: int, control: Sequence[bytes]) -> None:
        """`control`: the names of the control tokens."""
        self._vocabulary = json.dumps([n_vocab, [name.decode(errors="replace") for name in control]]).encode()
        self._lock = threading.Lock()
        """For the server and what it is sent, and for `_idle`."""
        self._server: _Server | None = None
        self._idle: list[_Trial] = []
        self._closed = False
        self.n_forked = 0

    def start(self) -> None:
        """Starts the server ahead of the first guide, which waits for it otherwise."""
        with self._lock:
            self._started()

    def run(self, language: str, source: str, seconds: float) -> str:
        """The guide in llguidance's own form, once it has been compiled within `seconds` of processor time.

        Raises GrammarError, TrialOverrun, TrialLost or Draining.
        """
        trial, answer = self._take(), None
        try:
            answer = trial.ask(language, source, seconds)
        finally:
            if answer is None:
                status = self._end(trial)
            else:
                with self._lock:
                    self._idle.append(trial)
        if answer is None:
            raise self._verdict(status)
        if "grammar" not in answer:
            raise GrammarError(answer.get("error", "it cannot be compiled"))
        return answer["grammar"]

    def close(self) -> None:
        """Kills the server and all trials, whatever they do."""
        self._closed = True
        if server := self._server:
            server.kill()  # Ends what holds the lock, too.
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
                except OSError:  # The server was killed from outside.
                    self._discard(server)
            raise TrialLost

    def _fork(self, server: "_Server") -> "_Trial":
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                trial = _Trial(ours, server, server.order(FORK, descriptor=theirs.fileno()))
            except BaseException:
                ours.close()
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
        """The exit status of a trial that is over, None if it is unknown."""
        trial.close()
        if trial.server is not self._server:
            return None  # It ended with its server.
        try:
            return trial.server.order(END, trial.pid)
        except OSError:
            self._discard(trial.server)
            return None

    def _discard(self, server: "_Server") -> None:
        if server is self._server:
            self._server = None
        server.kill()
        server.free()

    def _verdict(self, status: int | None) -> Exception:
        """The error that a trial means which ended without an answer."""
        if self._closed:
            return Draining("the worker is shutting down")
        if status == -signal.SIGPROF:
            return TrialOverrun()
        if status is None or status in (-signal.SIGKILL, -signal.SIGTERM):
            return TrialLost()
        return GrammarError(TOO_COMPLEX)  # The stack or the memory was exhausted.


class _Server:
    """The process that forks. Not safe from several threads, but for `kill`."""

    def __init__(self, vocabulary: bytes) -> None:
        self._orders, theirs = socket.socketpair()
        self._orders.settimeout(WALL_SECONDS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", trial_server.__name__],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
                process_group=0,
            )
        with suppress(OSError):  # `order` will notice.
            self._orders.sendall(LENGTH.pack(len(vocabulary)) + vocabulary)

    def order(self, order: bytes, argument: int = 0, *, descriptor: int | None = None) -> int:
        """The server's answer. Raises OSError if it is gone."""
        descriptors = [] if descriptor is None else [descriptor]
        socket.send_fds(self._orders, [ORDER.pack(order, argument)], descriptors)
        answer = b""
        while len(answer) < ANSWER.size:
            part = self._orders.recv(ANSWER.size - len(answer))
            if not part:
                raise ConnectionResetError
            answer += part
        return int(ANSWER.unpack(answer)[0])

    def kill(self) -> None:
        """With all that it has forked. From any thread, before `free`."""
        if self._process.returncode is None:  # else its id may be another's
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def free(self) -> None:
        """Once, after `kill`."""
        self._process.wait()
        self._orders.close()


class _Trial:
    """A process that compiles one guide after the other, until one ends it."""

    def __init__(self, channel: socket.socket, server: _Server, pid: int) -> None:
        self._channel = channel
        self._channel.settimeout(WALL_SECONDS)
        self._lines = channel.makefile("rw", encoding="utf-8")
        self.server = server
        self.pid = pid

    @property
    def alive(self) -> bool:
        """Asked between two guides, when it has nothing to send but its end."""
        self._channel.setblocking(False)
        try:
            return bool(self._channel.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            self._channel.settimeout(WALL_SECONDS)

    def ask(self, language: str, source: str, seconds: float) -> dict[str, str] | None:
        """The answer on one guide; None if the process ended or did not answer in time."""
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
