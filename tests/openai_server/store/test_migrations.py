"""The tables: created once, the same by migrations as in tables.py, and usable beside those of a newer sidecar."""

import asyncio
import logging
import multiprocessing
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from openai_server.store.errors import BadStore
from openai_server.store.migrate import MIGRATIONS, stored_revision
from openai_server.store.records import Base, PageRequest
from openai_server.store.store import Store, StoreSettings
from openai_server.store.tables import REVISION, REVISION_TABLE, metadata
from tests.openai_server.store.stores import (
    POSTGRES,
    add,
    database,
    ending,
    execute,
    history_ids,
    ids,
    item,
    link_of,
    new_response,
    opened,
    sweep,
)


@pytest.fixture(params=["file", POSTGRES])
async def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """The URL of a database without tables."""
    if request.param == "file":
        yield f"sqlite:///{tmp_path / 'store.db'}"
    else:
        async with database(request.getfixturevalue("postgres")) as url:
            yield url


def test_the_revision_is_that_of_the_newest_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    assert scripts.get_heads() == [REVISION]
    assert [script.revision for script in scripts.walk_revisions()] == [f"{n:04}" for n in range(int(REVISION), 0, -1)]


async def test_migrations_create_the_tables_of_this_version(empty_url: str) -> None:
    def differences(connection: Connection) -> object:
        options = {"version_table": REVISION_TABLE, "compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    def partial_indexes(connection: Connection) -> int:
        catalog = "sqlite_master WHERE sql" if connection.dialect.name == "sqlite" else "pg_indexes WHERE indexdef"
        return len(connection.execute(text(f"SELECT 1 FROM {catalog} LIKE '% WHERE %'")).all())

    async with opened(empty_url) as store:
        assert await link_of(store).write("test", differences) == []
        assert await link_of(store).write("test", stored_revision) == REVISION
        n_partial = sum(bool(index.dialect_kwargs) for table in metadata.tables.values() for index in table.indexes)
        assert await link_of(store).read("test", partial_indexes) == n_partial


async def test_tables_are_created_once(empty_url: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with opened(empty_url) as store:
        await add(store, "r1")
    assert [record.name for record in caplog.records] == ["openai_server.store.migrate"]
    async with opened(empty_url) as store:
        assert (await store.response("a", "r1")).id == "r1"


def _open(url: str, number: int) -> int:
    async def main() -> int:
        async with opened(url, runner=f"runner{number}") as store:
            await add(store, f"r{number}")
            return (await store.sizes()).responses

    return asyncio.run(main())


@pytest.mark.slow
async def test_processes_that_start_at_once_create_the_tables_once(empty_url: str) -> None:
    processes = multiprocessing.get_context("spawn")
    with processes.Pool(5) as pool:
        found = await asyncio.to_thread(pool.starmap, _open, [(empty_url, n) for n in range(5)])
    assert max(found) == 5


async def test_stores_that_open_at_once(empty_url: str) -> None:
    stores = [Store(StoreSettings(url=empty_url), runner=f"runner{n}") for n in range(6)]
    await asyncio.gather(*(store.open() for store in stores))
    assert not any(store.is_away for store in stores)
    await asyncio.gather(*(add(store, f"r{n}") for n, store in enumerate(stores)))
    assert (await stores[0].sizes()).responses == 6
    await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.slow
def test_alembic_is_not_imported_for_tables_that_exist(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from openai_server.store.store import Store, StoreSettings\n"
        "assert 'sqlalchemy' not in sys.modules\n"
        "async def main():\n"
        f"    store = Store(StoreSettings(url='sqlite:///{tmp_path}/store.db'), runner='r')\n"
        "    await store.open()\n"
        "    await store.close()\n"
        "asyncio.run(main())\n"
        "print('sqlalchemy' in sys.modules, 'alembic' in sys.modules, 'asyncpg' in sys.modules)\n"
    )
    for expected in ("True True False", "True False False"):
        result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert result.stdout.strip() == expected


async def test_a_database_of_another_program_is_refused(empty_url: str) -> None:
    async with opened(empty_url) as store:
        await execute(store, f"DROP TABLE {REVISION_TABLE}")
    with pytest.raises(BadStore, match="tables of another program: batch_lines, batches"):
        async with opened(empty_url):
            pass


# ---- Rolling updates


async def test_a_newer_sidecar_changes_the_tables_while_this_one_works(empty_url: str) -> None:
    """Its migration adds a column, a table and an index, as migrations/__init__.py allows."""
    async with opened(empty_url, runner="old") as old:
        await use_everything(old, "before")
        await add(old, "r1")
        async with opened(empty_url, runner="new") as new:
            await execute(new, "ALTER TABLE responses ADD COLUMN title TEXT")
            await execute(new, "ALTER TABLE items ADD COLUMN rank INTEGER DEFAULT 7")
            await execute(new, "CREATE TABLE titles (id TEXT PRIMARY KEY)")
            await execute(new, "CREATE INDEX responses_title ON responses (title)")
            await execute(new, f"UPDATE {REVISION_TABLE} SET version_num = '0002'")
            await execute(new, "UPDATE responses SET title = 'a title' WHERE id = 'r1'")
        await use_everything(old, "during")
        assert (await old.response("a", "r1")).output == [item("out_r1")]
        async with opened(empty_url, runner="restarted") as restarted:
            assert not restarted.is_away
            await use_everything(restarted, "after")
            (row,) = await execute(restarted, "SELECT title FROM responses WHERE id = 'r1'")
            assert row.title == "a title"
            (row,) = await execute(restarted, f"SELECT version_num FROM {REVISION_TABLE}")
            assert row.version_num == "0002"


async def use_everything(store: Store, name: str) -> None:
    await store.create_conversation("a", f"c_{name}", 1.0, b"{}", [item("x")])
    await add(store, f"r1_{name}", conversation=f"c_{name}", has_begun=True)
    await add(store, f"r2_{name}", previous=f"r1_{name}")
    assert len(await history_ids(store, f"r2_{name}")) == 5
    await store.add_items("a", f"c_{name}", [item("y")])
    await store.append("a", f"c_{name}", [item("z")])
    await store.set_metadata("a", f"c_{name}", b'{"k":"v"}')
    assert ids(await store.items("a", f"c_{name}", PageRequest(limit=2))) == ["z", "y"]
    assert len(ids(await store.input_items("a", f"r2_{name}", PageRequest()))) == 4
    await store.queue(new_response(f"q_{name}"), b"request")
    (run,) = await store.claim(1)
    await store.beat([run.id])
    await store.finish_run(run, ending(run.id), conversation_end=None, batches=[])
    await store.begin(new_response(f"r3_{name}", base=Base(run.id)))
    await store.items_by_id("a", ["x"])
    await store.delete_item("a", f"c_{name}", "x")
    await store.delete_response("a", f"r1_{name}")
    await store.delete_response("a", f"r2_{name}")
    await store.delete_conversation("a", f"c_{name}")
    await store.delete_response("a", f"r3_{name}")
    await store.sizes()
    await store.recover()
    await sweep(store)
