"""Responses: from their beginning to their end, and the histories that continue them."""

import pytest

from openai_server.core.store_errors import (
    ConversationNotFound,
    HistoryTooLarge,
    ItemExists,
    PreviousResponseNotFound,
    PreviousResponseUnfinished,
    ResponseNotFound,
    Superseded,
)
from openai_server.store.records import FINAL, NOTHING, Base, History, Status
from openai_server.store.store import Store
from tests.openai_server.store.stores import (
    add,
    ending,
    execute,
    history,
    history_ids,
    ids,
    item,
    new_response,
    opened,
)


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("status", sorted(FINAL))
async def test_a_response_is_returned_as_it_was_finished(store: Store, has_begun: bool, status: Status) -> None:
    response = new_response("r1", created_at=1234.5)
    if has_begun:
        await store.begin(response)
        begun = await store.response("a", "r1")
        assert (begun.status, begun.body, begun.output) == ("in_progress", response.body, [])
    await store.finish(response, ending("r1", status), has_begun=has_begun)
    stored = await store.response("a", "r1")
    assert (stored.id, stored.owner, stored.model, stored.created_at) == ("r1", "a", "m", 1234.5)
    assert (stored.status, stored.body, stored.is_background) == (status, ending("r1").body, False)
    assert stored.output == ending("r1").output
    sizes = await store.sizes()
    assert (sizes.responses, sizes.queued, sizes.running) == (1, 0, 0)


async def test_a_background_response_is_queued(store: Store) -> None:
    await store.queue(new_response("r1"), b"request")
    stored = await store.response("a", "r1")
    assert (stored.status, stored.is_background, stored.body) == ("queued", True, new_response("r1").body)
    assert (await store.sizes()).queued == 1
    with pytest.raises(PreviousResponseUnfinished, match="is queued"):
        await history(store, Base("r1"))


async def test_sizes_count_what_runs(store: Store) -> None:
    await store.begin(new_response("r1"))
    assert (await store.sizes()).running == 1
    await store.finish(new_response("r1"), ending("r1"), has_begun=True)
    assert (await store.sizes()).running == 0


async def test_what_belongs_to_another_owner_does_not_exist(store: Store) -> None:
    await add(store, "r1")
    with pytest.raises(ResponseNotFound):
        await store.response("b", "r1")
    with pytest.raises(ResponseNotFound):
        await store.delete_response("b", "r1")
    with pytest.raises(PreviousResponseNotFound):
        await history(store, Base("r1"), owner="b")
    with pytest.raises(PreviousResponseNotFound):
        await store.begin(new_response("r2", base=Base("r1"), owner="b"))
    with pytest.raises(PreviousResponseNotFound):
        await store.queue(new_response("r2", base=Base("r1"), owner="b"), b"")
    with pytest.raises(PreviousResponseNotFound):
        await store.finish(new_response("r2", base=Base("r1"), owner="b"), ending("r2"), has_begun=False)
    assert await store.items_by_id("b", ["in_r1", "out_r1"]) == {}
    begun = new_response("r3")
    await store.begin(begun)
    with pytest.raises(Superseded):
        await store.finish(new_response("r3", owner="b"), ending("r3"), has_begun=True)
    assert (await store.response("a", "r1")).status == "completed"
    assert (await store.sizes()).responses == 2


async def test_a_missing_base_is_an_error_of_every_method(store: Store) -> None:
    for base, error in ((Base("lost"), PreviousResponseNotFound), (Base(None, "lost"), ConversationNotFound)):
        with pytest.raises(error):
            await history(store, base)
        with pytest.raises(error):
            await store.begin(new_response("r1", base=base))
        with pytest.raises(error):
            await store.queue(new_response("r1", base=base), b"")
        for status in ("completed", "failed"):
            with pytest.raises(error):
                await store.finish(new_response("r1", base=base), ending("r1", status), has_begun=False)
    with pytest.raises(ConversationNotFound) as raised:
        await history(store, Base(None, "lost"))
    assert raised.value.param == "conversation"
    sizes = await store.sizes()
    assert (sizes.responses, sizes.bytes) == (0, 0)


# ---- Histories


async def test_nothing_has_an_empty_history(store: Store) -> None:
    assert await history(store, NOTHING) == History((), None)


async def test_a_chain_is_returned_oldest_first(store: Store) -> None:
    await add(store, "r1")
    await add(store, "r2", previous="r1", has_begun=True)
    await add(store, "r3", previous="r2", status="incomplete")
    assert await history_ids(store, "r3") == ["in_r1", "out_r1", "in_r2", "out_r2", "in_r3", "out_r3"]
    found = await history(store, Base("r3"))
    assert found.conversation_end is None
    assert found.items[1] == item("out_r1")


async def test_two_responses_continue_the_same_one(store: Store) -> None:
    await add(store, "r1")
    await add(store, "left", previous="r1")
    await add(store, "right", previous="r1")
    assert await history_ids(store, "left") == ["in_r1", "out_r1", "in_left", "out_left"]
    assert await history_ids(store, "right") == ["in_r1", "out_r1", "in_right", "out_right"]


async def test_failed_and_cancelled_responses_can_be_continued(store: Store) -> None:
    await add(store, "r1", status="failed")
    await add(store, "r2", previous="r1", status="cancelled")
    assert await history_ids(store, "r2") == ["in_r1", "out_r1", "in_r2", "out_r2"]


async def test_a_response_in_progress_has_no_history_yet(store: Store) -> None:
    await store.begin(new_response("r1"))
    with pytest.raises(PreviousResponseUnfinished, match="is in_progress"):
        await history(store, Base("r1"))
    with pytest.raises(PreviousResponseUnfinished):
        await store.begin(new_response("r2", base=Base("r1")))


async def test_a_chain_that_begins_with_a_conversation(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y")])
    await add(store, "r1", conversation="c1")
    await add(store, "r2", previous="r1")
    await store.add_items("a", "c1", [item("later")])
    assert await history_ids(store, "r2") == ["x", "y", "in_r1", "out_r1", "in_r2", "out_r2"]
    await store.delete_item("a", "c1", "x")
    assert await history_ids(store, "r2") == ["y", "in_r1", "out_r1", "in_r2", "out_r2"]
    await store.delete_conversation("a", "c1")
    with pytest.raises(PreviousResponseNotFound, match="'r2'"):
        await history(store, Base("r2"))
    assert (await store.response("a", "r1")).output == [item("out_r1")]


async def test_the_limits_of_a_history(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y")])
    await add(store, "r1", conversation="c1")
    await add(store, "r2", previous="r1")
    for base, n_items in ((Base("r2"), 6), (Base(None, "c1"), 4)):
        found = await history(store, base)
        n_bytes = sum(len(item.body) for item in found.items)
        assert len(found.items) == n_items
        exact = await store.history("a", base, max_bytes=n_bytes, max_items=n_items)
        assert exact == found
        with pytest.raises(HistoryTooLarge, match=f"exceed {n_items - 1} items"):
            await store.history("a", base, max_bytes=n_bytes, max_items=n_items - 1)
        with pytest.raises(HistoryTooLarge, match=f"exceed {n_bytes - 1} bytes") as raised:
            await store.history("a", base, max_bytes=n_bytes - 1, max_items=n_items)
        assert raised.value.param == ("conversation" if base.conversation_id else "previous_response_id")
    with pytest.raises(HistoryTooLarge):
        await store.history("a", Base("r2"), max_bytes=10**6, max_items=1)


async def test_an_older_response_that_is_lost(store: Store) -> None:
    await add(store, "r1")
    await add(store, "r2", previous="r1")
    await execute(store, "DELETE FROM responses WHERE id = 'r1'")
    with pytest.raises(PreviousResponseNotFound, match="'r2'"):
        await history(store, Base("r2"))


# ---- Conversations


@pytest.mark.parametrize("has_begun", [True, False])
async def test_a_response_is_appended_to_its_conversation_once(store: Store, has_begun: bool) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1", has_begun=has_begun)
    found = await history(store, Base(None, "c1"))
    assert ids(found) == ["x", "in_r1", "out_r1"]
    await add(store, "r2", conversation="c1", has_begun=has_begun, status="incomplete")
    assert ids(await history(store, Base(None, "c1"))) == ["x", "in_r1", "out_r1", "in_r2", "out_r2"]
    assert (await store.response("a", "r2")).output == [item("out_r2")]


@pytest.mark.parametrize("has_begun", [True, False])
@pytest.mark.parametrize("status", ["failed", "cancelled"])
async def test_a_response_without_success_is_not_appended(store: Store, has_begun: bool, status: Status) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await add(store, "r1", conversation="c1", has_begun=has_begun, status=status)
    assert ids(await history(store, Base(None, "c1"))) == ["x"]


@pytest.mark.parametrize("has_begun", [True, False])
async def test_an_id_that_the_conversation_has_is_not_appended_again(store: Store, has_begun: bool) -> None:
    """Two clients may send the same item at the same time."""
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    response = new_response("r1", base=Base(None, "c1"), end=-1)
    if has_begun:
        await store.begin(response)
    await store.add_items("a", "c1", [item("in_r1", "the first")])
    await store.finish(response, ending("r1"), has_begun=has_begun)
    found = await history(store, Base(None, "c1"))
    assert found.items == [item("in_r1", "the first"), item("out_r1")]
    assert await history_ids(store, "r1") == ["in_r1", "out_r1"]


async def test_a_conversation_that_was_deleted_meanwhile_gets_nothing(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [])
    response = new_response("r1", base=Base(None, "c1"), end=-1)
    await store.begin(response)
    await store.delete_conversation("a", "c1")
    await store.finish(response, ending("r1"), has_begun=True)
    assert (await store.response("a", "r1")).output == [item("out_r1")]
    with pytest.raises(PreviousResponseNotFound):
        await history(store, Base("r1"))


async def test_items_of_a_response_that_is_not_kept_are_appended(store: Store) -> None:
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x")])
    await store.append("a", "c1", [item("x", "again"), item("y")])
    found = await history(store, Base(None, "c1"))
    assert found.items == [item("x"), item("y")]
    for owner, id in (("a", "lost"), ("b", "c1")):
        with pytest.raises(ConversationNotFound):
            await store.append(owner, id, [item("z")])


# ---- Ends that come too late


async def test_a_response_that_was_deleted_meanwhile_can_not_end(store: Store) -> None:
    response = new_response("r1")
    await store.begin(response)
    await store.delete_response("a", "r1")
    with pytest.raises(Superseded):
        await store.finish(response, ending("r1"), has_begun=True)
    assert (await store.sizes()).bytes == 0


async def test_a_response_ends_once(store: Store) -> None:
    response = new_response("r1")
    await store.begin(response)
    await store.finish(response, ending("r1"), has_begun=True)
    with pytest.raises(Superseded):
        await store.finish(response, ending("r1", "failed"), has_begun=True)
    assert (await store.response("a", "r1")).status == "completed"


async def test_only_the_process_that_began_a_response_ends_it(shared_url: str) -> None:
    async with opened(shared_url, runner="first") as first, opened(shared_url, runner="second") as second:
        response = new_response("r1")
        await first.begin(response)
        with pytest.raises(Superseded):
            await second.finish(response, ending("r1"), has_begun=True)
        await first.finish(response, ending("r1"), has_begun=True)
        assert (await second.response("a", "r1")).status == "completed"


# ---- Items by their ids


async def test_items_are_found_by_their_ids(store: Store) -> None:
    await add(store, "r1")
    await store.create_conversation("a", "c1", 1.0, b"{}", [item("x"), item("y", "old")])
    await store.create_conversation("a", "c2", 1.0, b"{}", [item("y", "new")])
    found = await store.items_by_id("a", ["in_r1", "out_r1", "x", "y", "lost"])
    assert found == {
        **{id: item(id).body for id in ("in_r1", "out_r1", "x")},
        "y": item("y", "new").body,
    }
    await store.delete_item("a", "c1", "x")
    await store.delete_conversation("a", "c2")
    await store.delete_response("a", "r1")
    assert await store.items_by_id("a", ["in_r1", "out_r1", "x", "y"]) == {"y": item("y", "old").body}
    assert await store.items_by_id("a", []) == {}


async def test_many_items_are_found_by_their_ids(store: Store) -> None:
    names = [f"i{n}" for n in range(1300)]
    await store.create_conversation("a", "c1", 1.0, b"{}", [item(name) for name in names])
    for n in (1, 2, 3, 511, 512, 513, 1300):
        assert (await store.items_by_id("a", names[:n])).keys() == set(names[:n])
    assert len(await store.items_by_id("a", [f"lost{n}" for n in range(40_000)] + names)) == 1300
    with pytest.raises(ItemExists):
        await store.add_items("a", "c1", [item(f"new{n}") for n in range(1000)] + [item("i1299")])
