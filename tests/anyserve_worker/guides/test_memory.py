"""The memory of guides is bounded in entries and weight."""

from anyserve_worker.core.guide import Guide
from anyserve_worker.guides.memory import LeastRecentlyUsed, digest
from protos import contract


def test_a_digest_identifies_language_and_source() -> None:
    guides = [Guide(tensor, source) for tensor in contract.GUIDES for source in ("", "a", "b", "é")]
    guides += [Guide(contract.JSON_SCHEMA, source, lenient=True) for source in ("", "a")]
    assert len({digest(guide) for guide in guides}) == len(guides)
    assert digest(Guide(contract.REGEX, "a")) == digest(Guide(contract.REGEX, "a"))


def test_the_least_recently_used_entry_is_dropped() -> None:
    memory: LeastRecentlyUsed[int] = LeastRecentlyUsed(2, 100)
    memory.put(b"a", 1, 1)
    memory.put(b"b", 2, 1)
    assert memory.get(b"a") == 1
    memory.put(b"c", 3, 1)
    assert [memory.get(key) for key in (b"a", b"b", b"c")] == [1, None, 3]
    assert len(memory) == 2


def test_the_sum_of_the_weights_is_bounded() -> None:
    memory: LeastRecentlyUsed[int] = LeastRecentlyUsed(10, 5)
    memory.put(b"a", 1, 2)
    memory.put(b"b", 2, 3)
    memory.put(b"c", 3, 1)
    assert [memory.get(key) for key in (b"a", b"b", b"c")] == [None, 2, 3]
    memory.put(b"too heavy", 4, 6)
    assert [memory.get(key) for key in (b"too heavy", b"b", b"c")] == [None, 2, 3]
    memory.put(b"all of it", 5, 5)
    assert [memory.get(key) for key in (b"all of it", b"b", b"c")] == [5, None, None]
    memory.clear()
    assert memory.get(b"all of it") is None
    memory.put(b"all of it", 6, 5)
    assert memory.get(b"all of it") == 6
