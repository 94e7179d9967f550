"""The connection to the database: opened, watched, and every transaction on it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from shutil import rmtree
from tempfile import gettempdir
from time import monotonic, perf_counter
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from openai_server.core.store_errors import StoreAway
from openai_server.store.blob_folder import FolderBlobs
from openai_server.store.blobs import Blobs, Places
from openai_server.store.errors import BadStore, BlobsAway, Lost, MissingBlob, NotConnected, Overloaded
from openai_server.store.stowing import Stowage
from openai_server.store.url import PostgresUrl, StoreUrl, parsed

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from openai_server.store.file_blobs import FileBlobs
    from openai_server.store.opening import Parts
    from openai_server.store.store import Observe, StoreSettings

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

RETRY_SECONDS = 1.0
BEAT_SECONDS = 2.5
"""Interval of a runner's heartbeat."""


class Link:
    """See `Store` for what its methods do and raise."""

    def __init__(self, settings: "StoreSettings", *, runner: str, observe: "Observe") -> None:
        self._settings, self._runner, self._observe = settings, runner, observe
        self._parts: Parts | None = None
        self._blobs: Blobs | None = None
        self.files: FileBlobs | None = None
        """The place of files; None before `open`, and without one."""
        self._temporary: Path | None = None
        """The folder of files for a store in memory."""
        self._is_loss_logged = False

    @property
    def parts(self) -> "Parts":
        """Raises RuntimeError before `open`."""
        if self._parts is None:
            raise RuntimeError("The store is not open.")
        return self._parts

    @property
    def is_away(self) -> bool:
        return self._parts is None or not self._parts.database.is_connected

    async def open(self) -> None:
        self._parts = await asyncio.to_thread(self._load)
        try:
            await self._connect()
        except (Lost, Overloaded) as error:
            self._log_loss(error)
        except BadStore:
            await self.close()
            raise

    async def close(self) -> None:
        if self._parts is not None:
            await self._parts.database.close()
            self._parts = None
        if self.files is not None:
            await asyncio.to_thread(self.files.close)
        if self._temporary is not None:
            await asyncio.to_thread(rmtree, self._temporary, ignore_errors=True)

    async def watch(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_connected())
            tasks.create_task(self.parts.sweeper.run(self))

    def stowing(self) -> Stowage:
        return Stowage(self._blobs)

    async def read(
        self, name: str, fn: "Callable[Concatenate[Connection, P], T]", *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Runs a transaction that changes nothing. `name` is that of the method, for metrics."""
        read = self.parts.database.read
        missing = ""
        while True:
            try:
                return await self._observed(name, lambda: read(fn, *args, **kwargs))
            except MissingBlob as error:
                # Another transaction has deleted the item since this one began, unless the same blob is missing again.
                if str(error) == missing:
                    log.error("The blob %s is missing.", error)
                    raise StoreAway from error
                missing = str(error)

    async def write(
        self, name: str, fn: "Callable[Concatenate[Connection, P], T]", *args: P.args, **kwargs: P.kwargs
    ) -> T:
        write = self.parts.database.write
        return await self._observed(name, lambda: write(fn, *args, **kwargs))

    async def _observed(self, name: str, transaction: Callable[[], Awaitable[T]]) -> T:
        start = perf_counter()
        try:
            result = await transaction()
        except (Lost, Overloaded, BlobsAway) as error:
            self._observe(name, perf_counter() - start, False)
            self._log_loss(error)
            raise StoreAway from error
        except Exception:
            self._observe(name, perf_counter() - start, True)
            raise
        self._observe(name, perf_counter() - start, True)
        return result

    async def _keep_connected(self) -> None:
        next_beat = monotonic()
        while True:
            try:
                if self.is_away:
                    await self._connect()
                    log.warning("The store answers again.")
                    self._is_loss_logged = False
                if monotonic() >= next_beat:
                    next_beat = monotonic() + BEAT_SECONDS
                    await self._beat()
            except (Lost, Overloaded, BadStore) as error:
                self._log_loss(error)
            except Exception:
                log.exception("The connection to the store wasn't checked.")
            await asyncio.sleep(RETRY_SECONDS)

    async def _connect(self) -> None:
        """Raises Lost, Overloaded and BadStore."""
        await self.parts.database.connect()
        await self._beat()

    async def _beat(self) -> None:
        await self.parts.database.write(self.parts.see_runner, self._runner)

    def _log_loss(self, error: Exception) -> None:
        """Logs the loss of the database once; the errors that follow have no other reason."""
        if not isinstance(error, Lost | BadStore):
            log.warning("A transaction of the store was given up: %s", error)
        elif not isinstance(error, NotConnected) and not self._is_loss_logged:
            self._is_loss_logged = True
            log.warning("The store is away: %s", error)

    def _load(self) -> "Parts":
        """Imports the libraries and builds the parts. Runs in a thread, since that takes a few hundred milliseconds.
        Raises BadStore."""
        url = parsed(self._settings.url)
        _require("store", ("sqlalchemy", "alembic"))
        if isinstance(url, PostgresUrl):
            _require("postgres", ("asyncpg", "greenlet"))
            for name, file in url.files:
                if not file.is_file():
                    raise BadStore(f"`{name}` in the URL of the store names no file: {file}")
        self._blobs = None if self._settings.blobs is None else FolderBlobs(self._settings.blobs)
        from openai_server.store.file_blobs import FileBlobs
        from openai_server.store.opening import build

        places = Places(self._blobs, self._blobs or self._default_blobs(url))
        if places.files is not None:
            self.files = FileBlobs(places.files)
        return build(self._settings, url, places, runner=self._runner)

    def _default_blobs(self, url: StoreUrl) -> Blobs | None:
        """The place of files without `--blobs`: large bodies are in the database."""
        if isinstance(url, PostgresUrl):
            return None
        if url.file is None:
            folder = self._temporary = Path(gettempdir(), f"anyserve-files-{token_hex(16)}")
        else:
            folder = url.file.with_name(f"{url.file.name}.blobs")
        return FolderBlobs(folder, is_created=False)


def _require(extra: str, libraries: Sequence[str]) -> None:
    missing = [library for library in libraries if find_spec(library) is None]
    if missing:
        raise BadStore(f"{' and '.join(missing)} must be installed: pip install 'anyserve-openai[{extra}]'")
