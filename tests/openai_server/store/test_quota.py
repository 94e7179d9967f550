"""The limits of what an owner stores."""

from typing import Any

import pytest

from openai_server.core.store_errors import StoreQuotaExceeded
from openai_server.store.records import Base
from tests.openai_server.store.stores import add, ending, history, ids, item, new_response, opened

OBJECT_BYTES = len(new_response("r1").body) + len(item("in_r1").body)


async def test_the_number_of_objects_is_limited(url: str) -> None:
    async with opened(url, max_objects=2) as store:
        await add(store, "r1")
        await store.create_conversation("a", "c1", 1.0, b"{}", [])
        before = await store.sizes()
        with pytest.raises(StoreQuotaExceeded, match="2 responses and conversations"):
            await store.begin(new_response("r2"))
        with pytest.raises(StoreQuotaExceeded):
            await store.queue(new_response("r2"), b"")
        with pytest.raises(StoreQuotaExceeded):
            await store.finish(new_response("r2"), ending("r2"), has_begun=False)
        with pytest.raises(StoreQuotaExceeded):
            await store.create_conversation("a", "c2", 1.0, b"{}", [])
        assert await store.sizes() == before
        await add(store, "r2", owner="b")
        await store.delete_response("a", "r1")
        await add(store, "r3")
        await store.delete_conversation("a", "c1")
        await store.create_conversation("a", "c2", 1.0, b"{}", [])


async def test_the_number_of_bytes_is_limited(url: str) -> None:
    async with opened(url, max_bytes=OBJECT_BYTES + 10) as store:
        response = new_response("r1")
        await store.begin(response)
        assert (await store.sizes()).bytes == OBJECT_BYTES
        with pytest.raises(StoreQuotaExceeded, match=f"{OBJECT_BYTES + 10} bytes"):
            await store.begin(new_response("r2"))
        with pytest.raises(StoreQuotaExceeded):
            await store.create_conversation("a", "c1", 1.0, b"x" * 11, [])
        await store.create_conversation("a", "c1", 1.0, b"{}", [])
        for method in (store.add_items, store.append):
            with pytest.raises(StoreQuotaExceeded):
                await method("a", "c1", [item("x")])
        with pytest.raises(StoreQuotaExceeded):
            await store.set_metadata("a", "c1", b"x" * 11)
        assert ids(await history(store, Base(None, "c1"))) == []


@pytest.mark.parametrize("limits", [{"max_objects": 1}, {"max_bytes": OBJECT_BYTES}])
async def test_an_owner_at_a_limit_is_found_before_anything_is_generated(url: str, limits: Any) -> None:
    async with opened(url, **limits) as store:
        await store.check_quota("a")
        await store.begin(new_response("r1"))
        with pytest.raises(StoreQuotaExceeded):
            await store.check_quota("a")
        await store.check_quota("b")


async def test_the_output_of_a_response_that_has_begun_is_always_stored(url: str) -> None:
    async with opened(url, max_bytes=OBJECT_BYTES) as store:
        await store.begin(new_response("r1"))
        await store.finish(new_response("r1"), ending("r1"), has_begun=True)
        assert (await store.response("a", "r1")).output == [item("out_r1")]
        with pytest.raises(StoreQuotaExceeded):
            await store.begin(new_response("r2"))


async def test_an_owner_above_a_lowered_limit_can_delete(shared_url: str) -> None:
    async with opened(shared_url) as store:
        for name in ("r1", "r2", "r3"):
            await add(store, name)
    async with opened(shared_url, max_objects=1, max_bytes=1) as store:
        await store.delete_response("a", "r1")
        assert (await store.sizes()).responses == 2
