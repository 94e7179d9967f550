"""Reads and writes the blobs of files beside the event loop, in threads of their own: a slow disk holds up nothing
else."""

import asyncio
import hashlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

from openai_server.core.file_errors import FileTooLarge, StorageFull
from openai_server.core.store_errors import StoreAway
from openai_server.store.blobs import Blobs, BlobWriter, new_key
from openai_server.store.database import to_its_end
from openai_server.store.errors import BlobsAway, BlobsFull, MissingBlob
from openai_server.store.file_records import Part

log = logging.getLogger(__name__)
T = TypeVar("T")

PIECE_BYTES = 1 << 20
"""Bytes that are read or written at once, unless many files are."""
MAX_HELD_BYTES, MIN_PIECE_BYTES = 32 << 20, 64 << 10
"""Bytes of all pieces in memory; a file has at least the latter."""
N_THREADS = 8


class FileBlobs:
    """The methods raise StoreAway."""

    def __init__(self, blobs: Blobs) -> None:
        self._blobs = blobs
        self._n_open = 0
        """Files that are read or written."""
        self._threads = ThreadPoolExecutor(N_THREADS, "store-files")

    async def write(self, pieces: AsyncIterator[bytes], *, max_bytes: int) -> Part:
        """See `FileStore.receive`."""
        key, n_bytes, waiting = new_key(), 0, bytearray()
        writer: BlobWriter | None = None
        try:
            with _reported(), self._opened():
                writer = await self._run(self._blobs.create, key)
                async for piece in pieces:
                    n_bytes += len(piece)
                    if n_bytes > max_bytes:
                        raise FileTooLarge(max_bytes)
                    waiting += piece
                    if len(waiting) >= self._piece_bytes:
                        await self._run(writer.write, waiting)
                        waiting = bytearray()
                await self._run(writer.write, waiting)
                await self._run(writer.finish)
        except BaseException:
            await self._run(self._remove, key, writer)
            raise
        return Part(key, n_bytes)

    async def read(self, parts: Sequence[Part], start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`, in pieces of at most PIECE_BYTES."""
        with self._opened():
            for part in parts:
                position, part_end = max(start, 0), min(end, part.n_bytes)
                while position < part_end:
                    piece = await self._piece(part, position, part_end)
                    yield piece
                    position += len(piece)
                start, end = start - part.n_bytes, end - part.n_bytes

    async def _piece(self, part: Part, start: int, end: int) -> bytes:
        with _reported():
            piece = await self._run(self._blobs.read, part.blob, start, min(self._piece_bytes, end - start))
            if not piece:
                raise MissingBlob(part.blob)
            return piece

    async def delete(self, keys: Sequence[str]) -> None:
        """Leaves to the sweeper what can't be deleted now."""
        for key in keys:
            await self._run(self._remove, key, None)

    async def md5(self, parts: Sequence[Part]) -> str:
        """The digest of the content, in hexadecimal digits."""
        digest = hashlib.md5(usedforsecurity=False)
        async for piece in self.read(parts, 0, sum(part.n_bytes for part in parts)):
            await self._run(digest.update, piece)
        return digest.hexdigest()

    @contextmanager
    def _opened(self) -> Iterator[None]:
        self._n_open += 1
        try:
            yield
        finally:
            self._n_open -= 1

    @property
    def _piece_bytes(self) -> int:
        return min(PIECE_BYTES, max(MIN_PIECE_BYTES, MAX_HELD_BYTES // max(self._n_open, 1)))

    async def free_bytes(self) -> int:
        with _reported():
            return await self._run(self._blobs.free_bytes)

    def close(self) -> None:
        """Waits for the threads."""
        self._threads.shutdown()

    def _remove(self, key: str, writer: BlobWriter | None) -> None:
        try:
            if writer is not None:
                writer.abandon()
            self._blobs.delete(key)
        except BlobsAway as error:
            log.warning("A blob can't be deleted: %s", error)

    async def _run(self, fn: Callable[..., T], *args: object) -> T:
        """Runs to its end even if this task is cancelled."""
        return await to_its_end(asyncio.get_running_loop().run_in_executor(self._threads, fn, *args))


@contextmanager
def _reported() -> Iterator[None]:
    """Turns errors of the place of the blobs into those of requests."""
    try:
        yield
    except BlobsFull as error:
        log.warning("There is no room for a file: %s", error)
        raise StorageFull from error
    except (BlobsAway, MissingBlob) as error:
        log.warning("A file can't be read or written: %r", error)
        raise StoreAway from error
