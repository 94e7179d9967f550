"""Blobs as files of a folder."""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from shutil import disk_usage
from threading import Lock

from openai_server.store.blobs import BlobWriter
from openai_server.store.errors import BadStore, BlobsAway, BlobsFull, MissingBlob

TEMPORARY = ".tmp"
MARK = ".store"
"""Name of the file with the id of the store whose folder it is."""
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a disk, or of this account's part of it, that has no room."""


class FolderBlobs:
    """`Blobs` in files that only this account can read, in 256 folders by the first two digits of their keys."""

    def __init__(self, folder: Path, *, is_created: bool = True) -> None:
        """`is_created` false: the folder is created for the first blob. Raises BadStore if it can't be created now."""
        self._folder = folder
        try:
            if is_created:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise BadStore(f"The folder of the blobs can't be created: {error}") from error

    def put(self, key: str, value: bytes) -> None:
        writer = self.create(key)
        try:
            writer.write(value)
            writer.finish()
        except BaseException:
            writer.abandon()
            raise

    def create(self, key: str) -> BlobWriter:
        file = self._file(key)
        with _reported():
            self._make_place(file)
            return FolderWriter(file)

    def read(self, key: str, start: int, n_bytes: int) -> bytes:
        with _reported():
            try:
                with open(self._file(key), "rb", buffering=0) as stream:
                    stream.seek(start)
                    return _read(stream.fileno(), n_bytes)
            except FileNotFoundError as error:
                raise MissingBlob(key) from error

    def get(self, key: str) -> bytes:
        with _reported():
            try:
                return self._file(key).read_bytes()
            except FileNotFoundError as error:
                raise MissingBlob(key) from error

    def delete(self, key: str) -> None:
        with _reported():
            self._file(key).unlink(missing_ok=True)

    def belongs_to(self, store: str) -> bool:
        """A folder that doesn't exist yet belongs to every store."""
        mark = self._folder / MARK
        with _reported(is_new=True):
            if not self._folder.exists():
                return True
            if not mark.exists():
                self._mark(mark, store)
            return mark.read_text() == store

    def _mark(self, mark: Path, store: str) -> None:
        """Creates the mark with its content at once, unless another process does: this one may end at any moment."""
        new = mark.with_suffix(f".{token_hex(8)}")
        with open(new, "x", opener=_private) as file:
            file.write(store)
        with suppress(FileExistsError):
            os.link(new, mark)
        new.unlink()

    def older_than(self, seconds: float) -> Iterator[str]:
        """Deletes temporary files of that age, too: a process ended while it wrote them."""
        latest = time.time() - seconds
        for file in self._folder.glob("??/*"):
            with suppress(FileNotFoundError), _reported():
                if file.stat().st_mtime > latest:
                    continue
                if file.suffix == TEMPORARY:
                    file.unlink()
                    continue
            yield file.name

    def free_bytes(self) -> int:
        with _reported():
            return disk_usage(self._folder if self._folder.exists() else self._folder.parent).free

    def _file(self, key: str) -> Path:
        return self._folder / key[:2] / key

    def _make_place(self, file: Path) -> None:
        if file.parent.exists():
            return
        if not self._folder.exists():
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(self._folder.parent)
        file.parent.mkdir(mode=0o700, exist_ok=True)
        _sync(self._folder)


class FolderWriter:
    """A `BlobWriter`. The file has another name until it is durable. Another thread may abandon it while one writes."""

    def __init__(self, file: Path) -> None:
        self._file, self._temporary = file, file.with_suffix(TEMPORARY)
        self._lock = Lock()
        self._is_finished = False
        self._descriptor: int | None = None
        self._descriptor = os.open(self._temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)

    def write(self, data: bytes) -> None:
        rest = memoryview(data)
        with self._lock, _reported(is_new=True):
            while rest:
                rest = rest[os.write(self._open(), rest) :]

    def finish(self) -> None:
        with self._lock, _reported(is_new=True):
            descriptor = self._open()
            os.utime(descriptor)  # the sweeper leaves it time until a row refers to it
            os.fsync(descriptor)
            self._close()
            self._temporary.rename(self._file)
            self._is_finished = True
            _sync(self._file.parent)

    def abandon(self) -> None:
        with self._lock, _reported():
            if not self._is_finished:
                self._close()
                self._temporary.unlink(missing_ok=True)

    def __del__(self) -> None:
        """Nothing has received this writer if the task that wanted it was cancelled."""
        with suppress(BlobsAway):
            self.abandon()

    def _open(self) -> int:
        if self._descriptor is None:
            raise BlobsAway("The blob was abandoned.")
        return self._descriptor

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _read(descriptor: int, n_bytes: int) -> bytes:
    """Reads until the end of the file, or until there are `n_bytes`: one call of the system may return fewer."""
    data = os.read(descriptor, n_bytes)
    while len(data) < n_bytes and (more := os.read(descriptor, n_bytes - len(data))):
        data += more
    return data


@contextmanager
def _reported(*, is_new: bool = False) -> Iterator[None]:
    """Turns errors of the disk into BlobsFull and BlobsAway. A file that is missing is such an error if it `is_new`."""
    try:
        yield
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not is_new:
            raise
        raise (BlobsFull if error.errno in _FULL else BlobsAway)(str(error)) from error


def _sync(folder: Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
