"""The KV cache's cells and prefixes, on a fake memory that rejects invalid calls."""

from array import array
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from anyserve_worker.core.prefix_key import TEXT_KEY, PrefixKey
from anyserve_worker.scheduling.idle_limit import FIRST_IDLE_TOKENS, MIN_IDLE_TOKENS
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prefix import common_prefix, shared_prefix
from tests.anyserve_worker.fakes import FakeMemory


def tokens_of(text: str) -> "array[int]":
    """Returns one token a character."""
    return array("i", map(ord, text))


class Cache:
    """A cache with its memory. A letter is a token."""

    def __init__(
        self, n_cells: int = 100, n_sequences: int = 8, memory: FakeMemory | None = None, reuse: bool = True
    ) -> None:
        self.memory = memory or FakeMemory(n_cells)
        self.cache = KVCache(self.memory, n_cells, n_sequences, reuse)

    def run(self, text: str, n: int | None = None, key: PrefixKey = TEXT_KEY) -> tuple[int, int]:
        """Admits a text and computes its first `n` tokens (None: all); returns its id and how many were cached."""
        tokens = tokens_of(text)
        acquired = self.cache.acquire(tokens, key)
        assert acquired
        seq_id, cached = acquired
        end = len(tokens) if n is None else n
        self.memory.compute(seq_id, cached, tokens[cached:end])
        self.cache.commit(seq_id, end)
        return acquired

    def keep(self, *texts: str, key: PrefixKey = TEXT_KEY) -> None:
        """Runs the texts and leaves them as cached prefixes; the first is the least recently used."""
        for text in texts:
            self.cache.release(self.run(text, key=key)[0])

    def cached(self, text: str, key: PrefixKey = TEXT_KEY) -> int:
        """Returns how many tokens of a text are cached. A token is added, because the last one is never reused."""
        return self.cache.best_prefix(tokens_of(text + "§"), key)[1]

    @property
    def free(self) -> int:
        return self.cache.n_free_cells


# ---- Prefixes


def test_a_new_cache_is_empty() -> None:
    c = Cache(n_cells=10)
    assert c.cache.best_prefix(tokens_of("abc"), TEXT_KEY) == (-1, 0)
    assert (c.free, c.cache.n_cached_sequences) == (10, 0)


def test_a_sequence_takes_one_cell_a_token_and_frees_those_not_computed() -> None:
    c = Cache(n_cells=10)
    seq_id, _ = c.run("abcdef", n=2)
    assert c.free == 4
    c.cache.release(seq_id)
    assert (c.free, c.cache.n_cached_sequences, c.cached("abcdef")) == (8, 1, 2)


def test_a_sequence_that_computed_nothing_is_not_cached() -> None:
    c = Cache(n_cells=10, n_sequences=1)
    seq_id, _ = c.run("abc", n=0)
    c.cache.release(seq_id)
    assert (c.free, c.cache.n_cached_sequences) == (10, 0)
    assert c.run("xyz") == (seq_id, 0)


def test_a_cached_prefix_is_taken_over_by_the_sequence_that_continues_it() -> None:
    c = Cache()
    c.keep("abc")
    assert c.run("abcde")[1] == 3
    assert c.cache.n_cached_sequences == 0
    assert c.free == 95


def test_the_last_token_is_computed_even_if_it_is_cached() -> None:
    c = Cache()
    c.keep("abc")
    assert c.run("abc")[1] == 2
    c.keep("x")
    assert c.run("x")[1] == 0


def test_a_partly_used_prefix_stays_cached_and_shares_its_cells() -> None:
    c = Cache()
    c.keep("abcdef")
    _, n = c.run("abcxyz")
    assert n == 3
    assert c.free == 100 - 6 - 3
    assert c.cached("abcdef") == 6


def test_running_sequences_share_only_computed_tokens() -> None:
    c = Cache()
    first, _ = c.run("abcdefgh", n=4)
    second, n = c.run("abcdefxy")
    assert (second != first, n) == (True, 4)
    assert c.free == 100 - 8 - 4


def test_shared_cells_are_freed_with_their_last_owner() -> None:
    c = Cache(n_cells=20)
    first, _ = c.run("abcdef")
    second, n = c.run("abcdxy")
    assert (n, c.free) == (4, 12)
    c.cache.release(first)
    assert c.cache.evict_all() == 1
    assert c.free == 20 - 6
    c.cache.release(second)
    assert c.cache.evict_all() == 1
    assert c.free == 20


def test_the_longest_prefix_is_chosen() -> None:
    c = Cache()
    c.keep("abxxx", "abcdxx", "abcyy")
    assert c.run("abcdef")[1] == 4


def test_generated_tokens_of_a_running_sequence_are_shared() -> None:
    c = Cache()
    tokens = tokens_of("ab")
    acquired = c.cache.acquire(tokens, TEXT_KEY)
    assert acquired
    seq_id = acquired[0]
    for token in tokens_of("cd"):
        c.memory.compute(seq_id, len(tokens) - (1 if len(tokens) > 2 else 2), tokens[-(1 if len(tokens) > 2 else 2) :])
        c.cache.commit(seq_id, len(tokens))
        tokens.append(token)
        assert c.cache.grow(seq_id, len(tokens))
    assert c.cached("abcd") == 3


def test_a_cached_prefix_has_its_own_copy_of_the_tokens() -> None:
    c = Cache()
    tokens = tokens_of("abc")
    acquired = c.cache.acquire(tokens, TEXT_KEY)
    assert acquired
    c.memory.compute(acquired[0], 0, tokens)
    c.cache.commit(acquired[0], 3)
    c.cache.release(acquired[0])
    tokens[0] = ord("x")
    assert c.cached("abc") == 3


# ---- Promises


def test_a_prefix_is_promised_until_it_is_computed_to_its_end() -> None:
    c = Cache()
    tokens = tokens_of("abcdxx")
    seq_id, _ = c.run("abcdefgh", n=0)
    assert c.cache.promised_prefix(tokens, TEXT_KEY)[1] == 4
    c.memory.compute(seq_id, 0, tokens_of("abc"))
    c.cache.commit(seq_id, 3)
    assert c.cache.promised_prefix(tokens, TEXT_KEY)[1] == 4
    c.memory.compute(seq_id, 3, tokens_of("d"))
    c.cache.commit(seq_id, 4)
    assert c.cache.promised_prefix(tokens, TEXT_KEY)[1] == 0


def test_only_running_sequences_promise_a_common_prefix() -> None:
    c = Cache()
    c.keep("abcd")
    c.run("xyz", n=0)
    assert c.cache.promised_prefix(tokens_of("abcdef"), TEXT_KEY)[1] == 0


def test_the_longest_promised_prefix_is_chosen() -> None:
    c = Cache()
    c.run("abxx", n=0)
    c.run("abcd", n=0)
    assert c.cache.promised_prefix(tokens_of("abcde"), TEXT_KEY)[1] == 4


def test_a_recurrent_state_promises_only_its_whole_prompt() -> None:
    c = Cache(memory=FakeMemory(100, recurrent=True))
    c.run("abcd", n=2)
    assert c.cache.promised_prefix(tokens_of("abcdef"), TEXT_KEY)[1] == 4
    assert c.cache.promised_prefix(tokens_of("abcxyz"), TEXT_KEY)[1] == 0
    assert c.cache.promised_prefix(tokens_of("abcd"), TEXT_KEY)[1] == 0


# ---- Room


def test_the_least_recently_used_prefix_is_evicted_first() -> None:
    c = Cache(n_cells=12)
    c.keep("aaaa", "bbbb", "cccc")
    c.run("dd")
    assert (c.cached("aaaa"), c.cached("bbbb"), c.cached("cccc"), c.free) == (0, 4, 4, 2)


def test_a_partly_used_prefix_counts_as_used() -> None:
    c = Cache(n_cells=14)
    c.keep("aaaa", "bbbb")
    c.cache.release(c.run("aax")[0])  # forks "aaaa"
    c.keep("cccc")
    c.run("dd")
    assert (c.cached("aaaa"), c.cached("bbbb")) == (4, 0)


def test_no_more_prefixes_than_needed_are_evicted() -> None:
    c = Cache(n_cells=12)
    c.keep("aa", "bb", "cc")
    c.run("d" * 9)
    assert (c.cached("aa"), c.cached("bb"), c.cached("cc")) == (0, 0, 2)
    assert c.free == 1


def test_the_prefix_that_a_sequence_continues_is_not_evicted_for_it() -> None:
    c = Cache(n_cells=10)
    c.keep("aaaa", "bbbb")
    assert c.run("aaaazzz")[1] == 4
    assert c.cached("bbbb") == 0


def test_a_partly_used_prefix_is_cut_if_its_user_needs_the_cells() -> None:
    c = Cache(n_cells=10)
    c.keep("abcdefgh")
    assert c.run("abcdefxyz")[1] == 6
    assert (c.free, c.cache.n_cached_sequences) == (1, 0)


def test_other_prefixes_are_evicted_before_one_is_cut() -> None:
    c = Cache(n_cells=10)
    c.keep("zz", "abcdef")
    assert c.run("abcxyz")[1] == 3
    assert (c.cached("zz"), c.cached("abcdef"), c.free) == (0, 6, 1)


def test_a_prefix_is_not_cut_if_that_frees_too_few_cells() -> None:
    c = Cache(n_cells=10)
    c.keep("abcdefgh")
    c.run("abcdefgz")  # shares seven cells: cutting the cached prefix frees one at most
    assert c.cache.acquire(tokens_of("abxxx"), TEXT_KEY) is None
    assert (c.cached("abcdefgh"), c.free) == (8, 1)
    assert c.run("abxx")[1] == 2
    assert c.free == 0


def test_running_sequences_are_never_evicted() -> None:
    c = Cache(n_cells=10)
    c.run("aaaaaa")
    assert c.cache.acquire(tokens_of("bbbbb"), TEXT_KEY) is None
    assert c.cache.acquire(tokens_of("bbbb"), TEXT_KEY) is not None


def test_a_failed_admission_changes_nothing() -> None:
    c = Cache(n_cells=10)
    c.keep("aaa", "bbb")
    seq_id, _ = c.run("cccc")
    assert c.cache.acquire(tokens_of("ddddddd"), TEXT_KEY) is None
    assert not c.cache.grow(seq_id, 11)
    assert (c.cached("aaa"), c.cached("bbb"), c.cached("cccc"), c.free) == (3, 3, 4, 0)


def test_evicting_a_prefix_does_not_free_cells_of_running_sequences() -> None:
    c = Cache(n_cells=10)
    c.keep("abcdefgh")
    c.run("abcdefx")  # shares six of the eight
    assert c.free == 1
    assert c.cache.acquire(tokens_of("zzzz"), TEXT_KEY) is None
    assert c.cached("abcdefgh") == 8
    assert c.cache.acquire(tokens_of("zzz"), TEXT_KEY) is not None
    assert c.cached("abcdefgh") == 6


def test_growing_takes_cells_only_for_new_tokens() -> None:
    c = Cache(n_cells=10)
    seq_id, _ = c.run("abc")
    assert c.cache.grow(seq_id, 3)
    assert c.free == 7
    assert c.cache.grow(seq_id, 5)
    assert c.cache.grow(seq_id, 4)
    assert c.free == 5
    assert c.cache.grow(seq_id, 10)
    assert not c.cache.grow(seq_id, 11)


def test_growing_evicts_cached_prefixes() -> None:
    c = Cache(n_cells=6)
    c.keep("aaa")
    seq_id, _ = c.run("bbb")
    assert c.cache.grow(seq_id, 4)
    assert (c.cached("aaa"), c.free) == (0, 2)


@pytest.mark.parametrize("order", [("aaaa", "bbxx"), ("bbxx", "aaaa")])
def test_a_sequence_id_is_freed_by_evicting_another_prefix(order: tuple[str, str]) -> None:
    """In either order of use, the prefix that is continued stays."""
    c = Cache(n_sequences=2)
    ids = {text: c.run(text)[0] for text in ("aaaa", "bbxx")}
    oldest, newest = order
    c.cache.release(ids[oldest])
    c.cache.release(ids[newest])
    assert c.run(newest[:2] + "zz")[1] == 2
    assert (c.cached(oldest), c.cached(newest)) == (0, 4)


def test_the_last_sequence_id_is_taken_from_the_prefix_that_is_continued() -> None:
    c = Cache(n_sequences=2)
    c.run("running")
    c.keep("abcdef")
    assert c.run("abcxyz")[1] == 3
    assert (c.cache.n_cached_sequences, c.free) == (0, 100 - 7 - 6)


def test_no_sequence_is_admitted_without_a_free_id() -> None:
    c = Cache(n_sequences=2)
    c.run("aa")
    c.run("bb")
    assert c.cache.acquire(tokens_of("aac"), TEXT_KEY) is None
    assert c.cache.acquire(tokens_of("c"), TEXT_KEY) is None
    assert c.free == 96


def test_clear_also_drops_running_sequences() -> None:
    c = Cache(n_cells=10, n_sequences=2)
    c.keep("abc")
    c.run("xyz")
    c.cache.clear()
    assert (c.free, c.cache.n_cached_sequences, c.memory.sequences) == (10, 0, {})
    c.run("abc")
    c.run("xyz")


# ---- Memory that can't be truncated


def test_a_recurrent_state_is_reused_only_as_a_whole() -> None:
    c = Cache(memory=FakeMemory(100, recurrent=True))
    c.keep("abcd")
    assert c.run("abcdef")[1] == 4
    assert c.run("abx")[1] == 0


def test_a_recurrent_state_that_is_ahead_of_its_tokens_is_dropped() -> None:
    c = Cache(memory=FakeMemory(100, recurrent=True))
    seq_id, _ = c.run("abcd")
    c.cache.commit(seq_id, 3)  # the step that computed "d" is not committed
    c.cache.release(seq_id)
    assert (c.cache.n_cached_sequences, c.free, c.memory.sequences) == (0, 100, {})


def test_a_shorter_recurrent_state_is_used_if_the_longer_one_does_not_match() -> None:
    c = Cache(memory=FakeMemory(100, recurrent=True))
    c.keep("ab", "abcdxx")
    c.keep("ab")
    assert c.run("abcdef")[1] == 2


def test_a_prefix_before_the_attention_window_is_not_reused() -> None:
    c = Cache(memory=FakeMemory(100, window=3))
    c.keep("abcdefgh")
    assert c.run("abcdefgx")[1] == 0
    c = Cache(memory=FakeMemory(100, window=3))
    c.keep("abcdefgh")
    assert c.run("abcdefghij")[1] == 8


# ---- Without reuse


def test_without_reuse_no_prefix_is_kept_shared_or_promised() -> None:
    c = Cache(n_cells=20, reuse=False)
    c.keep("abcd")
    assert (c.free, c.cache.n_cached_sequences, c.memory.sequences) == (20, 0, {})
    c.run("abcd", n=2)
    assert c.cache.promised_prefix(tokens_of("abcdef"), TEXT_KEY)[1] == 0
    assert c.run("abcdef")[1] == 0
    assert c.free == 10
    assert c.cache.evict_all() == 0


# ---- Prefix keys: adapter and media

CAT, DOG = b"cat", b"dog"
OTHER_ADAPTER = PrefixKey(adapter=1)


def test_a_prefix_is_not_shared_between_adapters() -> None:
    c = Cache()
    c.keep("abcdef", key=OTHER_ADAPTER)
    assert c.cached("abcdef") == 0
    assert c.cached("abcdef", PrefixKey(adapter=2)) == 0
    assert c.cached("abcdef", PrefixKey(adapter=1)) == 6


def test_equal_prefixes_of_different_adapters_are_both_cached() -> None:
    c = Cache()
    c.keep("abcdef")
    assert c.run("abcdef!", key=OTHER_ADAPTER)[1] == 0
    assert c.cached("abcdef") == 6
    assert c.free == 100 - 6 - 7


def test_a_prefix_is_not_promised_to_another_adapter() -> None:
    c = Cache()
    c.run("abcdef", n=1, key=OTHER_ADAPTER)
    assert c.cache.promised_prefix(tokens_of("abcdef!"), TEXT_KEY) == (-1, 0)
    assert c.cache.promised_prefix(tokens_of("abcdef!"), OTHER_ADAPTER)[1] == 6


@pytest.mark.parametrize(
    ("media", "cached"),
    [
        (((2, CAT),), 6),
        (((2, DOG),), 2),
        (((3, CAT),), 2),
        (((1, CAT),), 1),
        (((0, DOG),), 0),
        ((), 2),
        (((2, CAT), (4, DOG)), 4),
        (((2, CAT), (6, DOG)), 6),
        (((1, DOG), (2, CAT)), 1),
    ],
)
def test_a_prefix_is_shared_up_to_the_first_medium_that_differs(
    media: tuple[tuple[int, bytes], ...], cached: int
) -> None:
    c = Cache()
    c.keep("abcdef", key=PrefixKey(media=((2, CAT),)))
    assert c.cached("abcdef", PrefixKey(media=media)) == cached


def test_media_after_the_end_of_a_cached_prefix_are_ignored() -> None:
    c = Cache()
    seq_id, _ = c.run("abcdef", n=4, key=PrefixKey(media=((4, CAT),)))
    c.cache.release(seq_id)
    assert c.cached("abcd") == 4


def test_a_sequence_that_continues_a_prefix_has_its_own_key() -> None:
    c = Cache()
    cat, dog = PrefixKey(media=((3, CAT),)), PrefixKey(media=((3, DOG),))
    c.keep("abcdef", key=cat)
    assert c.run("abcdefgh", key=dog)[1] == 3
    assert c.cached("abcdefgh", dog) == 8
    assert c.cached("abcdefgh", cat) == 6


def test_only_a_sequence_with_the_same_key_counts_as_missing_an_eviction() -> None:
    def limit_after(key: PrefixKey) -> float:
        c = Cache()
        c.keep(STORY, key=OTHER_ADAPTER)
        c.cache.pass_time(10**6)
        c.run(STORY, key=key)
        return c.cache._idle_limits[0].tokens

    assert limit_after(TEXT_KEY) < FIRST_IDLE_TOKENS < limit_after(OTHER_ADAPTER)


keys = st.builds(
    PrefixKey,
    adapter=st.integers(0, 1),
    media=st.dictionaries(st.integers(0, 4), st.sampled_from([CAT, DOG]), max_size=2).map(
        lambda media: tuple(sorted(media.items()))
    ),
)


def contents(tokens: "array[int]", key: PrefixKey) -> list[object]:
    """Returns for each token all values that its cell depends on."""
    return [
        (key.adapter, tuple(tokens[: i + 1]), [item for item in key.media if item[0] <= i]) for i in range(len(tokens))
    ]


def n_common(a: list[object], b: list[object]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


@given(st.text("ab", max_size=8), keys, st.text("ab", max_size=8), keys)
def test_a_shared_prefix_ends_at_the_first_different_content(
    a: str, a_key: PrefixKey, b: str, b_key: PrefixKey
) -> None:
    x, y = tokens_of(a), tokens_of(b)
    expected = n_common(contents(x, a_key), contents(y, b_key))
    assert shared_prefix(x, a_key, y, b_key) == shared_prefix(y, b_key, x, a_key) == expected


# ---- Random operations


def has_running(machine: "AnyOrder") -> bool:
    return bool(machine.tokens)


def has_several_cached(machine: "AnyOrder") -> bool:
    return machine.cache.n_cached_sequences > 2


class AnyOrder(RuleBasedStateMachine):
    """Random operations on a small cache. The invariants hold after each; the fake memory rejects invalid calls."""

    @initialize(
        n_cells=st.integers(6, 40), n_sequences=st.integers(1, 6), kind=st.sampled_from(["full", "window", "recurrent"])
    )
    def start(self, n_cells: int, n_sequences: int, kind: str) -> None:
        self.memory = FakeMemory(n_cells, window=3 if kind == "window" else None, recurrent=kind == "recurrent")
        self.cache = KVCache(self.memory, n_cells, n_sequences)
        self.is_full = kind == "full"
        self.tokens: dict[int, array[int]] = {}
        """Tokens of the running sequences, by sequence id."""
        self.keys: dict[int, PrefixKey] = {}
        """Key of the sequence that runs, or ran last, with each sequence id."""
        self.computed: dict[int, int] = {}

    def pick(self, i: int) -> int:
        return sorted(self.tokens)[i % len(self.tokens)]

    @rule(text=st.text(alphabet="ab", min_size=1, max_size=12), key=st.just(TEXT_KEY) | keys, n=st.integers(0, 12))
    def acquire(self, text: str, key: PrefixKey, n: int) -> None:
        """Admits a sequence and computes its first `n` tokens."""
        tokens = tokens_of(text)
        before = self.snapshot()
        source, best = self.cache.best_prefix(tokens, key)
        contents_by_id = self.held_contents()
        usable = [n_common(cells, contents(tokens, key)[:-1]) for cells in contents_by_id.values()]
        assert best <= max(usable, default=0)
        if self.is_full:
            assert best == max(usable, default=0)
        acquired = self.cache.acquire(tokens, key)
        if acquired is None:
            assert self.snapshot() == before
            n_running_cells = len({c for seq_id in self.tokens for c in self.cache._entries[seq_id].cells})
            shared = best if source in self.tokens else 0
            no_cells = len(tokens) - shared > self.memory.n_cells - n_running_cells
            assert no_cells or len(self.tokens) == self.cache.n_sequences
            return
        seq_id, cached = acquired
        assert seq_id not in self.tokens
        assert cached == best < len(tokens)
        assert self.memory.tokens(seq_id) == tokens[:cached]
        if cached:
            assert contents_by_id[source][:cached] == contents(tokens, key)[:cached]
        self.tokens[seq_id], self.computed[seq_id], self.keys[seq_id] = tokens, cached, key
        self.advance(seq_id, n)

    @precondition(has_running)
    @rule(i=st.integers(0, 5), n=st.integers(1, 12))
    def compute(self, i: int, n: int) -> None:
        self.advance(self.pick(i), n)

    def advance(self, seq_id: int, n: int) -> None:
        start, tokens = self.computed[seq_id], self.tokens[seq_id]
        end = min(start + n, len(tokens))
        if end > start:
            self.memory.compute(seq_id, start, tokens[start:end])
            self.cache.commit(seq_id, end)
            self.computed[seq_id] = end

    @precondition(has_running)
    @rule(i=st.integers(0, 5), token=st.sampled_from("ab"))
    def grow(self, i: int, token: str) -> None:
        seq_id = self.pick(i)
        self.advance(seq_id, len(self.tokens[seq_id]))
        before = self.snapshot()
        if self.cache.grow(seq_id, len(self.tokens[seq_id]) + 1):
            self.tokens[seq_id].append(ord(token))
        else:
            assert self.snapshot() == before
            assert self.cache.n_free_cells == 0

    @precondition(has_running)
    @rule(i=st.integers(0, 5))
    def release(self, i: int) -> None:
        seq_id = self.pick(i)
        self.cache.release(seq_id)
        assert (seq_id in self.cache._entries) == (self.computed[seq_id] > 0)
        del self.tokens[seq_id], self.computed[seq_id]

    def held_contents(self) -> dict[int, list[object]]:
        """Returns the contents of the computed cells, by sequence id."""
        return {
            seq_id: contents(entry.tokens, self.keys[seq_id])[: entry.n_computed]
            for seq_id, entry in self.cache._entries.items()
        }

    @precondition(has_several_cached)
    @rule()
    def evict_all(self) -> None:
        before = self.cache.n_cached_sequences
        assert self.cache.evict_all() == before
        assert self.cache.n_cached_sequences == 0

    def teardown(self) -> None:
        for seq_id in self.tokens:
            self.cache.release(seq_id)
        self.cache.evict_all()
        assert self.cache.n_free_cells == self.cache.n_cells
        assert not self.memory.sequences

    def snapshot(self) -> object:
        cache = self.cache
        entries = {
            seq_id: (e.tokens[:], e.key, e.cells[:], e.n_computed, e.running) for seq_id, e in cache._entries.items()
        }
        return entries, sorted(cache._free_cells), sorted(cache._free_ids), list(cache._owners)

    @invariant()
    def cells_are_owned_or_free(self) -> None:
        cache = self.cache
        owners = Counter(cell for entry in cache._entries.values() for cell in set(entry.cells))
        assert [owners[cell] for cell in range(cache.n_cells)] == cache._owners
        assert sorted(cache._free_cells) == [cell for cell in range(cache.n_cells) if not owners[cell]]
        assert all(len(set(entry.cells)) == len(entry.cells) for entry in cache._entries.values())

    @invariant()
    def cells_of_running_sequences_count_once(self) -> None:
        entries = self.cache._entries.values()
        assert self.cache.n_running_cells == len({cell for entry in entries if entry.running for cell in entry.cells})

    @invariant()
    def ids_are_taken_or_free(self) -> None:
        assert sorted([*self.cache._entries, *self.cache._free_ids]) == list(range(self.cache.n_sequences))
        assert {seq_id for seq_id, entry in self.cache._entries.items() if entry.running} == self.tokens.keys()

    @invariant()
    def entries_have_cells_for_all_their_tokens(self) -> None:
        for seq_id, entry in self.cache._entries.items():
            if entry.running:
                assert len(entry.cells) >= len(self.tokens[seq_id])
                assert entry.n_computed == self.computed[seq_id]
            else:
                assert 0 < entry.n_computed == len(entry.cells) == len(entry.tokens)

    @invariant()
    def only_equal_prefixes_share_cells(self) -> None:
        by_cell: dict[int, object] = {}
        for seq_id, entry in self.cache._entries.items():
            for cell, content in zip(entry.cells, contents(entry.tokens, self.keys[seq_id]), strict=False):
                assert by_cell.setdefault(cell, content) == content

    @invariant()
    def memory_matches_the_entries(self) -> None:
        for seq_id, entry in self.cache._entries.items():
            assert self.memory.tokens(seq_id) == entry.tokens[: entry.n_computed]
        assert self.memory.sequences.keys() <= self.cache._entries.keys()
        assert self.memory.n_used <= self.cache.n_cells - self.cache.n_free_cells


TestAnyOrder = AnyOrder.TestCase


# ---- common_prefix


def plain_common_prefix(a: "array[int]", b: "array[int]") -> int:
    n = 0
    while n < min(len(a), len(b)) and a[n] == b[n]:
        n += 1
    return n


@pytest.mark.parametrize("length", [0, 1, 2, 15, 16, 17, 31, 48, 49, 100, 1000])
def test_a_single_difference_ends_the_common_prefix(length: int) -> None:
    a = array("i", range(length))
    assert common_prefix(a, a) == length
    assert common_prefix(a, a + array("i", [7])) == length
    for i in range(length):
        b = a[:]
        b[i] = -1
        assert common_prefix(a, b) == common_prefix(b, a) == i


@given(a=st.lists(st.integers(0, 1), max_size=200), b=st.lists(st.integers(0, 1), max_size=200), n=st.integers(0, 200))
def test_common_prefix_is_that_of_a_plain_loop(a: list[int], b: list[int], n: int) -> None:
    x, y = array("i", a), array("i", a[:n] + b)
    assert common_prefix(x, y) == plain_common_prefix(x, y)


# ---- Idle prefixes

STORY = "once upon a time there was a fox"
OTHER = "the quick brown dog jumps over it"


def test_an_unused_prefix_is_evicted_after_the_idle_limit() -> None:
    c = Cache()
    c.keep(STORY)
    c.cache.pass_time(int(FIRST_IDLE_TOKENS))
    assert c.cached(STORY) == len(STORY)
    c.cache.pass_time(1)
    assert c.cached(STORY) == 0
    assert c.free == 100


def test_running_sequences_and_recently_used_prefixes_are_not_idle() -> None:
    c = Cache()
    c.run(STORY)
    c.keep(OTHER)
    c.cache.pass_time(int(FIRST_IDLE_TOKENS))
    c.cache.release(c.run(OTHER + "!")[0])
    c.cache.pass_time(int(FIRST_IDLE_TOKENS))
    assert c.cached(OTHER) == len(OTHER)
    c.cache.pass_time(int(FIRST_IDLE_TOKENS))
    assert c.cached(OTHER) == 0
    assert c.cached(STORY) == len(STORY)


def test_shared_cells_stay_when_one_of_their_prefixes_is_evicted() -> None:
    c = Cache()
    c.keep(STORY + " and so on")
    assert c.run(STORY + "!")[1] == len(STORY)
    c.cache.pass_time(10**6)
    assert c.cache.n_cached_sequences == 0
    assert c.free == 100 - len(STORY + "!")
    assert c.cached(STORY) == len(STORY)


def lifetime(c: Cache, text: str) -> int:
    """Caches a text and returns the number of generated tokens after which it is evicted."""
    c.keep(text)
    for n in range(1, 100_000):
        c.cache.pass_time(1)
        if not c.cached(text):
            return n
    raise AssertionError("the prefix is never evicted")


def test_the_idle_limit_shrinks_to_a_minimum_while_no_eviction_is_missed() -> None:
    c = Cache()
    lifetimes = [lifetime(c, f"{k} {OTHER}") for k in range(10, 99)]
    assert lifetimes == sorted(lifetimes, reverse=True)
    assert lifetimes[0] == FIRST_IDLE_TOKENS + 1
    assert lifetimes[-1] == MIN_IDLE_TOKENS + 1


def test_the_idle_limit_grows_with_each_eviction_that_was_missed() -> None:
    c = Cache()
    first = lifetime(c, STORY)
    second = lifetime(c, STORY)
    third = lifetime(c, STORY)
    assert second == pytest.approx(first * 1.8, rel=0.01)
    assert third == pytest.approx(second * 1.8, rel=0.01)


def test_a_short_common_prefix_does_not_count_as_a_missed_eviction() -> None:
    c = Cache()
    first = lifetime(c, "once upon a" + OTHER)
    assert lifetime(c, STORY) < first


def test_no_prefix_is_evicted_while_no_tokens_are_generated() -> None:
    c = Cache()
    c.keep(STORY)
    for _ in range(1000):
        c.cache.pass_time(0)
    assert c.cached(STORY) == len(STORY)
