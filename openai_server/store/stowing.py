"""Puts large bodies among the blobs, before the transaction that refers to them."""

import asyncio
import logging
from collections.abc import Sequence
from types import TracebackType

import msgspec

from openai_server.core.store_errors import StoreAway
from openai_server.store.blobs import BLOB_BYTES, BlobItem, BlobRequest, Blobs, new_key
from openai_server.store.errors import BlobsAway
from openai_server.store.records import Ending, Item, NewResponse

log = logging.getLogger(__name__)


class Stowage:
    """The blobs of one transaction, which runs in the `async with` block. An error of the transaction deletes them.
    If its outcome isn't certain, they stay: the sweeper deletes those to which nothing refers."""

    def __init__(self, blobs: Blobs | None) -> None:
        self._blobs = blobs
        self._keys: list[str] = []

    async def __aenter__(self) -> "Stowage":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, BlobsAway):
            log.warning("A body can't be stored among the blobs: %s", error)
            raise StoreAway from error
        if self._blobs is not None and self._keys and isinstance(error, Exception) and not isinstance(error, StoreAway):
            await asyncio.to_thread(delete_all, self._blobs, self._keys)

    async def response(self, response: NewResponse) -> NewResponse:
        own = await self.items(response.input)
        return response if own is response.input else msgspec.structs.replace(response, input=own)

    async def ending(self, ending: Ending) -> Ending:
        output = await self.items(ending.output)
        return ending if output is ending.output else msgspec.structs.replace(ending, output=output)

    async def items(self, items: Sequence[Item]) -> Sequence[Item]:
        """Returns the items themselves if none of them is large."""
        if self._blobs is None or all(len(item.body) <= BLOB_BYTES for item in items):
            return items
        return [
            item
            if len(item.body) <= BLOB_BYTES
            else BlobItem(item.id, b"", key=await self._put(self._blobs, item.body), n_bytes=len(item.body))
            for item in items
        ]

    async def request(self, request: bytes) -> bytes | BlobRequest:
        if self._blobs is None or len(request) <= BLOB_BYTES:
            return request
        return BlobRequest(await self._put(self._blobs, request), len(request))

    async def _put(self, blobs: Blobs, value: bytes) -> str:
        key = new_key()
        self._keys.append(key)
        await asyncio.to_thread(blobs.put, key, value)
        return key


def delete_all(blobs: Blobs, keys: Sequence[str]) -> None:
    """Leaves to the sweeper what can't be deleted now."""
    try:
        for key in keys:
            blobs.delete(key)
    except BlobsAway as error:
        log.warning("Blobs can't be deleted: %s", error)
