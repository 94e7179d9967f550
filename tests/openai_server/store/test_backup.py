"""The backups that docs/operations.md describes, made while the store is written to, and what is restored from them."""

import asyncio
import shutil
import sqlite3
import subprocess
from pathlib import Path

import pytest

from openai_server.core.store_errors import PreviousResponseNotFound
from openai_server.store.blobs import BLOB_BYTES
from openai_server.store.records import Base
from openai_server.store.store import Store
from tests.openai_server.store.stores import (
    add,
    all_pages,
    database,
    history,
    history_ids,
    item,
    opened,
)
from tests.postgres import Postgres


async def fill(store: Store) -> None:
    """Stores a response, and a conversation with another one."""
    await add(store, "r1")
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("i1")])
    await add(store, "r2", conversation="c1")


async def check(store: Store) -> None:
    assert await history_ids(store, "r1") == ["in_r1", "out_r1"]
    found = await all_pages(lambda page: store.items("a", "c1", page), order="asc")
    assert found == ["i1", "in_r2", "out_r2"]
    sizes = await store.sizes()
    # The limits of owners count what was restored.
    assert sizes.responses >= 2
    assert sizes.conversations == 1
    # New rows get keys that no restored row has.
    await add(store, "r3", previous="r1")
    assert await history_ids(store, "r3") == ["in_r1", "out_r1", "in_r3", "out_r3"]


async def writing(store: Store) -> None:
    """Adds responses until it is cancelled."""
    n = 0
    while True:
        await add(store, f"w{n}")
        n += 1


def vacuum_into(file: Path, copy: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("VACUUM INTO ?", (str(copy),))
    connection.close()


async def test_a_running_store_in_a_file_is_copied_by_sqlite(tmp_path: Path) -> None:
    file, copy = tmp_path / "store.db", tmp_path / "backup.db"
    async with opened(f"sqlite:///{file}") as store:
        await fill(store)
        writer = asyncio.create_task(writing(store))
        await asyncio.to_thread(vacuum_into, file, copy)
        writer.cancel()
        await add(store, "later")
    # The restored file takes the place of the other one; its log must not be used any more.
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    copy.rename(file)
    async with opened(f"sqlite:///{file}") as store:
        await check(store)
        with pytest.raises(PreviousResponseNotFound):
            await history(store, Base("later"))


async def test_blobs_are_copied_after_the_database(tmp_path: Path) -> None:
    file, blobs = tmp_path / "store.db", tmp_path / "blobs"
    large = item("large", "x" * (2 * BLOB_BYTES))
    async with opened(f"sqlite:///{file}", blobs=blobs) as store:
        await store.create_conversation("a", "c1", 1.0, b"{}", [large])
        vacuum_into(file, tmp_path / "backup.db")
        # Between the two copies, one file is added and none of the database's is missing.
        await store.create_conversation("a", "c2", 1.0, b"{}", [large])
        shutil.copytree(blobs, tmp_path / "backup-blobs")
    async with opened(f"sqlite:///{tmp_path / 'backup.db'}", blobs=tmp_path / "backup-blobs") as store:
        assert (await store.item("a", "c1", "large")).body == large.body


@pytest.mark.slow
async def test_pg_dump_and_pg_restore_keep_everything(postgres: Postgres, tmp_path: Path) -> None:
    dump = tmp_path / "backup.dump"
    async with database(postgres) as url, database(postgres) as restored:
        async with opened(url) as store:
            await fill(store)
            writer = asyncio.create_task(writing(store))
            await run(postgres, "pg_dump", "--format=custom", f"--file={dump}", url)
            writer.cancel()
        await run(postgres, "pg_restore", "--clean", "--if-exists", f"--dbname={restored}", str(dump))
        async with opened(restored) as store:
            await check(store)


async def run(postgres: Postgres, program: str, *arguments: str) -> None:
    process = await asyncio.create_subprocess_exec(
        postgres.programs / program, *arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = await process.communicate()
    assert (process.returncode, output) == (0, b"")
