"""Builds the parts of a store. Imports SQLAlchemy, so a thread imports this module when a store is opened."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from sqlalchemy import Connection

from openai_server.store.batch_lines import BatchLines, delete_lines
from openai_server.store.batches import Batches
from openai_server.store.blobs import Places, ReadableBlobs
from openai_server.store.contexts import Contexts
from openai_server.store.conversations import Conversations
from openai_server.store.database import Database
from openai_server.store.deletion import delete_conversation, delete_items, delete_response
from openai_server.store.files import Files, delete_file
from openai_server.store.leases import see_runner
from openai_server.store.quota import Quota, file_totals
from openai_server.store.records import Sizes
from openai_server.store.responses import Responses
from openai_server.store.runs import Runs
from openai_server.store.secrets import secret
from openai_server.store.settings import StoreSettings
from openai_server.store.sizes import sizes
from openai_server.store.sqlite import SQLite
from openai_server.store.stowing import delete_all
from openai_server.store.sweeper import Sweeper
from openai_server.store.uploads import Uploads
from openai_server.store.url import SQLiteUrl, StoreUrl


@dataclass(frozen=True, slots=True)
class Parts:
    database: Database
    quota: Quota
    responses: Responses
    contexts: Contexts
    conversations: Conversations
    runs: Runs
    batches: Batches
    batch_lines: BatchLines
    files: Files
    uploads: Uploads
    sweeper: Sweeper
    delete_response: Callable[[Connection, str, str], None] = delete_response
    delete_conversation: Callable[[Connection, str, str], bool] = delete_conversation
    delete_items: Callable[[Connection, str, str], bool] = delete_items
    delete_lines: Callable[[Connection, str], bool] = delete_lines
    delete_file: Callable[[Connection, str, str], None] = delete_file
    file_totals: Callable[[Connection], tuple[int, int]] = file_totals
    secret: Callable[[Connection, str, str], str] = secret
    see_runner: Callable[[Connection, str], None] = see_runner
    sizes: Callable[[Connection], Sizes] = sizes


def build(settings: StoreSettings, url: StoreUrl, places: Places, *, runner: str) -> Parts:
    """Connects to nothing yet."""
    database, readable = _database(url, places)
    quota = Quota(settings.max_objects, settings.max_bytes, settings.max_file_bytes)
    retention = settings.retention or None
    responses = Responses(quota, readable, runner=runner, retention=retention)
    batches = Batches(runner=runner, retention=retention, max_batches=settings.max_batches)
    return Parts(
        database=database,
        quota=quota,
        responses=responses,
        contexts=Contexts(readable),
        conversations=Conversations(quota, readable, retention=retention),
        runs=Runs(responses, readable, runner=runner, retention=retention),
        batches=batches,
        batch_lines=BatchLines(batches, runner=runner),
        files=Files(quota),
        uploads=Uploads(quota, max_parts=settings.max_upload_parts),
        sweeper=Sweeper(database, places.files, process=runner),
    )


def _database(url: StoreUrl, places: Places) -> tuple[Database, ReadableBlobs | None]:
    blobs = places.bodies
    release = partial(delete_all, places.files) if places.files is not None else _keep
    if isinstance(url, SQLiteUrl):
        return SQLite(url.file, release), blobs
    from openai_server.store.postgres import AwaitedBlobs, Postgres  # a store in SQLite doesn't need its libraries

    return Postgres(url.dsn, release), AwaitedBlobs(blobs) if blobs is not None else None


def _keep(keys: object) -> None:
    """Rows without blobs refer to none."""
