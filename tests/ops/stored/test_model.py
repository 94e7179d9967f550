from collections.abc import Sequence

import pytest

from tests.ops.stored.model import Block, Deletion, Fate, ListedItem, problems_of_items


def block(name: str, began: float, *, fate: Fate = Fate.ANNOUNCED) -> Block:
    is_announced = fate is Fate.ANNOUNCED
    return Block([name], began, fate=fate, answer_id=f"msg_{name}" if is_announced else None, ended=began + 1)


def items(*names: str) -> list[ListedItem]:
    """Items of blocks: `a` is the message of block a, `A` its answer."""
    return [
        ListedItem(f"in_{name}", "user", name)
        if name.islower()
        else ListedItem(f"msg_{name.lower()}", "assistant", "yes")
        for name in names
    ]


def test_blocks_may_overlap_in_time() -> None:
    blocks = [block("a", 0), block("b", 0.5)]
    assert not problems_of_items(blocks, items("a", "A", "b", "B"))
    assert not problems_of_items(blocks, items("b", "B", "a", "A"))


def test_a_request_that_was_cut_off_has_all_items_or_none() -> None:
    blocks = [block("a", 0), block("b", 2, fate=Fate.CUT)]
    assert not problems_of_items(blocks, items("a", "A"))
    assert not problems_of_items(blocks, items("a", "A", "b", "B"))
    assert problems_of_items(blocks, items("a", "A", "b"))


def test_deleted_items() -> None:
    blocks = [block("a", 0), block("b", 2)]
    blocks[0].deletions = {0: Deletion.ANNOUNCED, 1: Deletion.CUT}
    for rest in ((), ("A",)):
        assert not problems_of_items(blocks, items(*rest, "b", "B"))
    assert problems_of_items(blocks, items("a", "A", "b", "B"))


@pytest.mark.parametrize(
    "listing",
    [
        items("a", "b", "B"),
        items("A", "b", "B"),
        items("b", "B"),
        items("a", "b", "A", "B"),
        items("a", "A", "b", "B", "b", "B"),
        items("a", "A", "b", "B", "B"),
        items("a", "A", "b", "B", "x"),
        items("A", "a", "b", "B"),
        items("b", "B", "a", "A"),
    ],
)
def test_a_fault_is_found(listing: Sequence[ListedItem]) -> None:
    blocks = [block("a", 0), block("b", 2)]
    assert not problems_of_items(blocks, items("a", "A", "b", "B"))
    assert problems_of_items(blocks, listing)


def test_items_of_a_refused_request_are_found() -> None:
    assert problems_of_items([block("a", 0, fate=Fate.REFUSED)], items("a", "A"))
    assert not problems_of_items([block("a", 0, fate=Fate.REFUSED)], [])
