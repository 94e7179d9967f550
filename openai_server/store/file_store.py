"""The files and uploads of the store, as the rest of the sidecar uses them.

A file is a list of blobs: an upload is completed without copying its parts. Blobs to which no row refers are deleted by
the sweeper.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from openai_server.core.errors import InvalidRequest
from openai_server.core.file_errors import NoFiles
from openai_server.core.store_errors import StoreAway
from openai_server.store.arriving import ArrivingFiles
from openai_server.store.file_records import (
    FileSizes,
    FilesPage,
    FilesRequest,
    NewFile,
    NewUpload,
    Part,
    StoredFile,
    StoredUpload,
)
from openai_server.store.link import Link

if TYPE_CHECKING:
    from openai_server.store.file_blobs import FileBlobs


class FileStore:
    """The methods raise StoreAway. Those with an `owner` treat what belongs to another owner as missing. Everything
    that a method has changed is committed when it returns. An id that a caller has chosen can be sent again after
    StoreAway: if the first attempt was committed, its object is returned.
    """

    def __init__(self, link: Link, *, max_bytes: int) -> None:
        """`max_bytes`: of the files of one owner; 0 is no limit."""
        self._link = link
        self._arriving = ArrivingFiles(max_bytes)

    @property
    def has_blobs(self) -> bool:
        """Whether there is a place for files. Without one `check_quota`, `receive` and `create_upload` raise
        NoFiles."""
        return self._link.files is not None

    async def sizes(self) -> FileSizes:
        files, n_bytes = await self._link.read("sizes", self._link.parts.file_totals)
        return FileSizes(files, n_bytes, None if self._link.files is None else await self._link.files.free_bytes())

    async def check_quota(self, owner: str, n_bytes: int = 1) -> int:
        """Returns the bytes that the owner has stored. Raises FileQuotaExceeded if it can't store another file of this
        size."""
        self._place()
        return await self._link.read("check_file_quota", self._link.parts.files.check_quota, owner, n_bytes)

    async def receive(
        self, pieces: AsyncIterator[bytes], *, max_bytes: int, owner: str | None = None, n_expected: int = 1
    ) -> Part:
        """Writes the pieces to a new blob as they come. No row refers to it yet: `create` or `add_part` must follow
        within an hour, or else `discard`. `owner` None: there is no quota. `n_expected`: a lower limit of its bytes.

        Raises FileTooLarge (status 413), StorageFull (507), FileQuotaExceeded, and what the iterator raises; the blob
        is then gone.
        """
        place = self._place()
        if owner is None:
            return await place.write(pieces, max_bytes=max_bytes)
        with self._arriving.counting(owner, await self.check_quota(owner, n_expected)) as count:
            return await place.write(_counted(pieces, count), max_bytes=max_bytes)

    async def discard(self, parts: Sequence[Part]) -> None:
        """Deletes blobs to which no row refers."""
        await self._place().delete([part.blob for part in parts])

    async def create(self, file: NewFile) -> StoredFile:
        """Raises FileQuotaExceeded; the parts are then deleted."""
        async with self._referring(file.parts):
            return await self._link.write("create_file", self._link.parts.files.create, file)

    async def get(self, owner: str, id: str) -> StoredFile:
        """Raises FileNotFound, also for one that has expired."""
        return await self._link.read("file", self._link.parts.files.get, owner, id)

    async def list(self, owner: str, page: FilesRequest) -> FilesPage:
        return await self._link.read("files", self._link.parts.files.list, owner, page)

    async def delete(self, owner: str, id: str) -> None:
        """Raises FileNotFound, and FileInUse while a batch reads it."""
        await self._link.write("delete_file", self._link.parts.delete_file, owner, id)

    def content(self, parts: Sequence[Part], start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """The bytes from `start` up to `end`, in pieces of at most 1 MiB. Raises StoreAway midway if a blob is
        missing."""
        n_bytes = sum(part.n_bytes for part in parts)
        return self._place().read(parts, start, n_bytes if end is None else min(end, n_bytes))

    # ---- Uploads

    async def create_upload(self, upload: NewUpload) -> StoredUpload:
        """Raises FileQuotaExceeded if its announced size doesn't fit."""
        self._place()
        return await self._link.write("create_upload", self._link.parts.uploads.create, upload)

    async def upload(self, owner: str, id: str) -> StoredUpload:
        """Raises UploadNotFound, also for one that has expired."""
        return await self._link.read("upload", self._link.parts.uploads.get, owner, id)

    async def add_part(self, owner: str, id: str, part_id: str, created_at: float, part: Part) -> None:
        """Raises UploadNotFound, UploadEnded, TooManyParts, PartsTooLarge and FileQuotaExceeded; the blob is then
        deleted."""
        uploads = self._link.parts.uploads
        async with self._referring([part]):
            await self._link.write("add_part", uploads.add_part, owner, id, part_id, created_at, part)

    async def complete_upload(
        self, owner: str, id: str, part_ids: Sequence[str], file_id: str, created_at: float, md5: str | None
    ) -> StoredUpload:
        """Makes a file of these parts, in this order, and deletes the others. Completing it again with the same parts
        is no error.

        Raises UploadNotFound, UploadEnded, and InvalidRequest for unknown or repeated parts, another size than was
        announced, or another MD5 digest (hexadecimal digits).
        """
        uploads = self._link.parts.uploads
        if md5 is not None:
            content = await self._link.read("upload_content", uploads.content, owner, id, part_ids)
            if content is not None and (digest := await self._place().md5(content)) != md5.lower():
                raise InvalidRequest(f"The MD5 digest of the parts is {digest}, not 'md5'.", param="md5")
        return await self._link.write("complete_upload", uploads.complete, owner, id, part_ids, file_id, created_at)

    async def cancel_upload(self, owner: str, id: str) -> StoredUpload:
        """Cancelling it again is no error. Raises UploadNotFound, and UploadEnded for a completed one."""
        return await self._link.write("cancel_upload", self._link.parts.uploads.cancel, owner, id)

    def _place(self) -> "FileBlobs":
        if self._link.files is None:
            raise NoFiles
        return self._link.files

    @asynccontextmanager
    async def _referring(self, parts: Sequence[Part]) -> AsyncIterator[None]:
        """Deletes the parts after an error of the transaction in the `async with` block. If its outcome isn't certain,
        they stay: the sweeper deletes those to which nothing refers."""
        try:
            yield
        except StoreAway:
            raise
        except Exception:
            await self.discard(parts)
            raise


async def _counted(pieces: AsyncIterator[bytes], count: Callable[[int], None]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        count(len(piece))
        yield piece
