"""Deletion of responses that others continue, and of their bytes."""

import itertools
from pathlib import Path

import pytest

from openai_server.core.store_errors import PreviousResponseNotFound, ResponseNotFound
from openai_server.store import deletion
from openai_server.store.records import Base, Ending, Item, PageRequest
from openai_server.store.store import Store
from tests.openai_server.store.stores import (
    add,
    execute,
    history,
    history_ids,
    ids,
    item,
    new_response,
    opened,
    rows,
    sweep,
)


async def test_a_deleted_response_is_gone(store: Store) -> None:
    await add(store, "r1")
    await store.delete_response("a", "r1")
    with pytest.raises(ResponseNotFound):
        await store.response("a", "r1")
    with pytest.raises(ResponseNotFound):
        await store.delete_response("a", "r1")
    with pytest.raises(ResponseNotFound):
        await store.input_items("a", "r1", PageRequest())
    with pytest.raises(PreviousResponseNotFound):
        await history(store, Base("r1"))
    assert (await store.sizes()).bytes == 0
    assert await rows(store, "items") == await rows(store, "responses") == 0


async def test_a_deleted_response_stays_part_of_those_that_continue_it(store: Store) -> None:
    await add(store, "r1")
    await add(store, "r2", previous="r1")
    await store.delete_response("a", "r1")
    with pytest.raises(ResponseNotFound):
        await store.response("a", "r1")
    with pytest.raises(ResponseNotFound):
        await store.delete_response("a", "r1")
    with pytest.raises(PreviousResponseNotFound):
        await add(store, "r3", previous="r1")
    with pytest.raises(PreviousResponseNotFound):
        await store.begin(new_response("r3", base=Base("r1")))
    assert await history_ids(store, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]
    assert ids(await store.input_items("a", "r2", PageRequest())) == ["in_r2", "out_r1", "in_r1"]
    assert set(await store.items_by_id("a", ["in_r1", "out_r1"])) == {"in_r1", "out_r1"}
    assert (await store.sizes()).responses == 1
    ((body, request),) = await execute(store, "SELECT body, request FROM responses WHERE id = 'r1'")
    assert (bytes(body), request) == (b"", None)
    await store.delete_response("a", "r2")
    assert await rows(store, "items") == await rows(store, "responses") == 0
    assert (await store.sizes()).bytes == 0


@pytest.mark.parametrize("order", [*itertools.permutations(["root", "left", "right"])], ids="-".join)
async def test_branches_are_deleted_in_any_order(store: Store, order: tuple[str, ...]) -> None:
    await add(store, "root")
    await add(store, "left", previous="root")
    await add(store, "right", previous="root")
    living = {"root", "left", "right"}
    for name in order:
        await store.delete_response("a", name)
        living.remove(name)
        for branch in living & {"left", "right"}:
            assert await history_ids(store, branch) == ["in_root", "out_root", f"in_{branch}", f"out_{branch}"]
        assert (await store.sizes()).responses == len(living)
    assert await rows(store, "items") == await rows(store, "responses") == 0
    assert (await store.sizes()).bytes == 0


async def test_a_long_chain_is_deleted_with_its_last_response(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """One transaction deletes some tombstones, and the sweeper the others."""
    monkeypatch.setattr(deletion, "MAX_TOMBSTONES", 2)
    await add(store, "r0")
    for n in range(1, 8):
        await add(store, f"r{n}", previous=f"r{n - 1}")
    for n in range(7):
        await store.delete_response("a", f"r{n}")
    assert len(await history_ids(store, "r7")) == 16
    await store.delete_response("a", "r7")
    assert await rows(store, "responses") == 5
    await sweep(store)
    assert await rows(store, "items") == await rows(store, "responses") == 0
    assert (await store.sizes()).bytes == 0


async def test_events_and_request_are_deleted_with_a_background_response(store: Store) -> None:
    await store.queue(new_response("r1"), b"request")
    await execute(store, "INSERT INTO events VALUES ('r1', 1, 0, :data)", data=b"event")
    await store.delete_response("a", "r1")
    assert await rows(store, "events") == await rows(store, "responses") == 0
    assert (await store.sizes()).bytes == 0


async def test_other_accounts_can_not_read_the_file(tmp_path: Path) -> None:
    async with opened(f"sqlite:///{tmp_path / 'store.db'}") as store:
        await add(store, "r1")
        assert modes_of_files(tmp_path) == dict.fromkeys(("store.db", "store.db-wal", "store.db-shm"), 0o600)


def modes_of_files(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mode & 0o777 for file in folder.iterdir()}


def bytes_of_files(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


async def test_deleted_bytes_are_gone_from_the_file(tmp_path: Path) -> None:
    secret = "secret of the client "
    async with opened(f"sqlite:///{tmp_path / 'store.db'}") as store:
        body = (secret * 5000).encode()
        await store.create_conversation("a", "c1", 1.0, body, [Item(f"x{n}", body) for n in range(3)])
        response = new_response("r1", base=Base(None, "c1"), end=2)
        await store.begin(response)
        await store.finish(response, Ending(status="completed", body=body, output=[Item("out", body)]), has_begun=True)
        await store.queue(new_response("r2"), body)
        await add(store, "r3", previous="r1")
        for kept in (True, False):
            assert (secret.encode() in bytes_of_files(tmp_path)) == kept
            if kept:
                await store.delete_item("a", "c1", "x0")
                await store.delete_response("a", "r1")
                await store.delete_response("a", "r2")
                await store.delete_response("a", "r3")
                await store.delete_conversation("a", "c1")
                await sweep(store)
        assert (await store.sizes()).bytes == 0


async def test_a_response_of_a_conversation_of_items_is_deleted_after_the_conversation(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1")
    await add(store, "r2", previous="r1")
    await store.delete_response("a", "r1")
    await store.delete_conversation("a", "c1")
    assert ids(await store.input_items("a", "r2", PageRequest(order="asc"))) == ["in_r1", "out_r1", "in_r2"]
    await store.delete_response("a", "r2")
    assert await rows(store, "items") == await rows(store, "responses") == 0
    assert (await store.sizes()).bytes == 0
