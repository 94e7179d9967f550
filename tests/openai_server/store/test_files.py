"""The files of a store in SQLite."""

import os
import stat
from pathlib import Path

import pytest

from openai_server.core.store_errors import StoreAway
from openai_server.store.errors import BadStore, Lost
from openai_server.store.store import Store, StoreSettings
from tests.openai_server.store.stores import add, opened


async def test_only_the_account_of_the_server_can_read_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        async with opened(f"sqlite:///{tmp_path}/store.db") as store:
            await add(store, "r1")
            modes = {name: stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in os.listdir(tmp_path)}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm"), 0o600)


async def test_the_mode_of_an_existing_file_stays(tmp_path: Path) -> None:
    file = tmp_path / "store.db"
    file.touch()
    file.chmod(0o640)
    async with opened(f"sqlite:///{file}"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o640


async def test_a_file_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadStore, match="unable to open database file"):
        await Store(StoreSettings(url=f"sqlite:///{tmp_path}/missing/store.db"), runner="runner").open()
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_a_file_that_is_not_the_open_one_any_more_makes_the_store_away(tmp_path: Path, how: str) -> None:
    file = tmp_path / "store.db"
    async with opened(f"sqlite:///{file}") as store:
        await add(store, "r1")
        if how == "deleted":
            file.unlink()
        else:
            file.rename(tmp_path / "other.db")
        if how == "replaced":
            async with opened(f"sqlite:///{file}"):
                pass
        for _ in range(2):
            with pytest.raises(StoreAway):
                await add(store, "r2")
            assert store.is_away
            with pytest.raises(Lost, match=r"was moved, deleted or replaced; restart this server"):
                await store._link.parts.database.connect()
