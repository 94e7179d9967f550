"""Deletes what has expired, and what deletions and crashes have left.

Each object has a transaction of its own, so that no other transaction waits for long.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import islice
from secrets import token_hex
from time import monotonic
from typing import TYPE_CHECKING, Any

from sqlalchemy import BindParameter, Connection, bindparam, delete, select, text, union

from openai_server.core.file_errors import FileInUse, FileNotFound
from openai_server.core.store_errors import ConversationNotFound, ResponseNotFound, StoreAway
from openai_server.store.batch_lines import delete_lines
from openai_server.store.batch_records import BATCH_ENDINGS
from openai_server.store.blobs import Blobs
from openai_server.store.database import Database
from openai_server.store.deletion import delete_conversation, delete_items, delete_response, delete_tombstone
from openai_server.store.errors import BlobsAway
from openai_server.store.files import IN_USE, delete_file
from openai_server.store.leases import take_lease
from openai_server.store.secrets import secret
from openai_server.store.stowing import delete_all
from openai_server.store.tables import (
    batch_lines,
    batches,
    conversations,
    file_parts,
    files,
    items,
    now,
    responses,
    runners,
    upload_parts,
    uploads,
)
from openai_server.store.uploads import delete_upload

if TYPE_CHECKING:
    from openai_server.store.link import Link

log = logging.getLogger(__name__)

INTERVAL_SECONDS = 30.0
REST = 2.0
"""Pause after the deletion of an object, as a multiple of the time that it took: other transactions and the event loop
get the rest of the processor and of the disk."""
PAUSE_SECONDS = 0.02
"""Pause after each batch of small rows."""
BATCH = 50
"""Objects that are looked up together."""
PLACE_SECONDS = 3600.0
"""Time for which the place of a deleted item stays, for lists that begin after it."""
RUNNER_SECONDS = 3600.0
"""Time after which the row of a process that ended is deleted."""
BLOB_SECONDS = 3600.0
"""Age of a blob to which no row refers, after which it is deleted. Also the interval of the search for them."""
STORE_ID = "store_id"
"""Name of the secret that identifies the store: another one's blobs must not be deleted."""
LEASE = "sweeper"
LEASE_SECONDS = 60.0
RENEWAL_SECONDS = 15.0
"""Time after which a long sweep renews its lease."""
EXPIRE = "expire"
"""Name of the transactions that delete an expired object each, so that metrics count these objects."""

_r, _c, _i, _f, _u, _b = responses.c, conversations.c, items.c, files.c, uploads.c, batches.c
_EXPIRED_RESPONSES = (
    select(_r.owner, _r.id)
    .where(_r.deleted_at.is_(None), _r.expires_at.is_not(None), _r.expires_at < now(), _r.status != "in_progress")
    .order_by(_r.expires_at)
    .limit(BATCH)
)
_EXPIRED_CONVERSATIONS = (
    select(_c.owner, _c.id)
    .where(_c.deleted_at.is_(None), _c.expires_at.is_not(None), _c.expires_at < now())
    .order_by(_c.expires_at)
    .limit(BATCH)
)
_EXPIRED_FILES = (
    select(_f.owner, _f.id)
    .where(_f.expires_at.is_not(None), _f.expires_at < now(), ~IN_USE)
    .order_by(_f.expires_at)
    .limit(BATCH)
)
_EXPIRED_UPLOADS = select(_u.owner, _u.id).where(_u.expires_at < now()).order_by(_u.expires_at).limit(BATCH)
_NO_WAIT = text("SET LOCAL synchronous_commit = off")
_IS_EXPIRED = select(_c.id).where(_c.id == bindparam("conversation"), _c.expires_at < now()).with_for_update()
_DELETED_CONVERSATIONS = select(_c.owner, _c.id).where(_c.deleted_at.is_not(None)).limit(BATCH)
_children = responses.alias()
_LONE_TOMBSTONES = (
    select(_r.owner, _r.id)
    .where(_r.deleted_at.is_not(None), ~select(_children.c.id).where(_children.c.parent == _r.id).exists())
    .limit(BATCH)
)
_ENDED_BATCHES = _b.status.in_(BATCH_ENDINGS)
_ENDED_WITH_LINES = (
    select(_b.owner, _b.id)
    .where(_ENDED_BATCHES, select(batch_lines.c.number).where(batch_lines.c.batch_id == _b.id).exists())
    .limit(BATCH)
)
_EXPIRED_BATCHES = (
    select(_b.owner, _b.id)
    .where(_b.kept_until.is_not(None), _b.kept_until < now())
    .order_by(_b.kept_until)
    .limit(BATCH)
)
_DELETE_BATCH = delete(batches).where(_b.id == bindparam("batch"))
_DELETE_PLACES = delete(items).where(
    _i.pk.in_(select(_i.pk).where(_i.deleted_at.is_not(None), _i.deleted_at < now() - PLACE_SECONDS).limit(10 * BATCH))
)
_DELETE_RUNNERS = delete(runners).where(runners.c.seen_at < now() - RUNNER_SECONDS)
_KEYS: BindParameter[str] = bindparam("keys", expanding=True)
_USED_BLOBS = union(
    *(select(column).where(column.in_(_KEYS)) for column in (_i.blob, _r.request_blob, file_parts.c.blob)),
    # The parts of a completed upload are those of its file, unless that has been deleted.
    select(upload_parts.c.blob)
    .join(uploads, uploads.c.id == upload_parts.c.upload_id)
    .where(upload_parts.c.blob.in_(_KEYS), _u.status == "pending"),
)


class Sweeper:
    def __init__(self, database: Database, blobs: Blobs | None, *, process: str) -> None:
        self._database, self._blobs, self._process = database, blobs, process
        self._next_blob_sweep = 0.0
        self._renews_at = 0.0
        """Time of the next renewal of the lease, by the monotonic clock."""

    async def run(self, link: "Link") -> None:
        """Sweeps at intervals, until cancelled, while no other process does."""
        while True:
            try:
                await self.sweep(link)
            except StoreAway:
                pass  # logged where it was raised
            except Exception:
                log.exception("The store was not swept.")
            await asyncio.sleep(INTERVAL_SECONDS)

    async def sweep(self, link: "Link") -> None:
        """Deletes everything that can be deleted now, unless another process has the lease. Raises StoreAway."""
        self._renews_at = 0.0
        if not await self._has_lease(link):
            return
        for name, statement, remove in _STEPS:
            while await self._has_lease(link) and (found := await link.read("sweep", _find, statement)):
                for owner, id in found:
                    began = monotonic()
                    await link.write(name, remove, owner, id)
                    await asyncio.sleep(REST * (monotonic() - began))
        if not await self._has_lease(link):
            return
        n_deleted = 1
        while n_deleted > 0:
            n_deleted = await link.write("sweep", _delete_places)
            await asyncio.sleep(PAUSE_SECONDS)
        await link.write("sweep", _delete_runners)
        if self._blobs is not None and monotonic() >= self._next_blob_sweep:
            self._next_blob_sweep = monotonic() + BLOB_SECONDS
            await self._sweep_blobs(link, self._blobs)
        await self._database.erase_log()

    async def _has_lease(self, link: "Link") -> bool:
        if monotonic() < self._renews_at:
            return True
        has_lease = await link.write("sweep", take_lease, LEASE, self._process, LEASE_SECONDS)
        self._renews_at = monotonic() + RENEWAL_SECONDS if has_lease else 0.0
        return has_lease

    async def _sweep_blobs(self, link: "Link", blobs: Blobs) -> None:
        id = await link.write("sweep", secret, STORE_ID, token_hex(16))
        old = blobs.older_than(BLOB_SECONDS)
        try:
            if not await asyncio.to_thread(blobs.belongs_to, id):
                log.error("The folder of the blobs is another store's (its file .store). Nothing there was swept.")
                return
            while keys := await asyncio.to_thread(lambda: list(islice(old, BATCH))):
                used = await link.read("sweep", _used_blobs, keys)
                await asyncio.to_thread(delete_all, blobs, [key for key in keys if key not in used])
                await asyncio.sleep(PAUSE_SECONDS)
        except BlobsAway as error:
            log.warning("The blobs were not swept: %s", error)


def _without_waiting(connection: Connection) -> None:
    """Ends the transaction before the disk has it: what a crash brings back is swept again."""
    if connection.dialect.name == "postgresql":
        connection.execute(_NO_WAIT)


def _find(connection: Connection, statement: Any) -> list[tuple[str, str]]:
    return [(row.owner, row.id) for row in connection.execute(statement)]


def _expire_response(connection: Connection, owner: str, id: str) -> None:
    _without_waiting(connection)
    with suppress(ResponseNotFound):  # deleted meanwhile
        delete_response(connection, owner, id)


def _expire_conversation(connection: Connection, owner: str, id: str) -> None:
    """Keeps a conversation that items were added to meanwhile. The next step deletes the items that are left."""
    _without_waiting(connection)
    if connection.execute(_IS_EXPIRED, {"conversation": id}).first() is not None:
        with suppress(ConversationNotFound):
            delete_conversation(connection, owner, id)


def _delete_batch_lines(connection: Connection, _: str, id: str) -> None:
    _without_waiting(connection)
    delete_lines(connection, id)


def _expire_batch(connection: Connection, _: str, id: str) -> None:
    """Deletes a batch, whose lines the step before has deleted."""
    _without_waiting(connection)
    connection.execute(_DELETE_BATCH, {"batch": id})


def _expire_file(connection: Connection, owner: str, id: str) -> None:
    _without_waiting(connection)
    with suppress(FileNotFound, FileInUse):  # deleted meanwhile, or the input of a new batch
        delete_file(connection, owner, id)


def _expire_upload(connection: Connection, owner: str, id: str) -> None:
    _without_waiting(connection)
    delete_upload(connection, owner, id)


_STEPS: tuple[tuple[str, Any, Callable[[Connection, str, str], object]], ...] = (
    (EXPIRE, _EXPIRED_RESPONSES, _expire_response),
    (EXPIRE, _EXPIRED_CONVERSATIONS, _expire_conversation),
    ("sweep", _ENDED_WITH_LINES, _delete_batch_lines),
    (EXPIRE, _EXPIRED_BATCHES, _expire_batch),
    (EXPIRE, _EXPIRED_FILES, _expire_file),
    (EXPIRE, _EXPIRED_UPLOADS, _expire_upload),
    ("sweep", _DELETED_CONVERSATIONS, delete_items),
    ("sweep", _LONE_TOMBSTONES, lambda connection, _, id: delete_tombstone(connection, id)),
)


def _delete_places(connection: Connection) -> int:
    return connection.execute(_DELETE_PLACES).rowcount


def _delete_runners(connection: Connection) -> None:
    connection.execute(_DELETE_RUNNERS)


def _used_blobs(connection: Connection, keys: Sequence[str]) -> set[str]:
    return set(connection.scalars(_USED_BLOBS, {"keys": list(keys)}))
