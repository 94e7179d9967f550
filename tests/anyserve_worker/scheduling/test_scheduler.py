"""The scheduler's steps: order, chunks of prompts, waiting, preemption, drafts, and that every sequence finishes."""

from array import array
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.core.errors import NoRoom
from anyserve_worker.core.prefix_key import PrefixKey
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prompt_lookup import max_rows
from anyserve_worker.scheduling.scheduler import MIN_SHARED_PREFIX, Scheduler
from anyserve_worker.scheduling.sequence import NO_SEQ_ID, Sequence
from anyserve_worker.text.output import TextOutput
from tests.anyserve_worker.fakes import FakeMemory, score


def sequence(prompt: Iterable[int], n_new: int = 1) -> Sequence:
    tokens = array("i", prompt)
    return Sequence(0, tokens, len(tokens), len(tokens) + n_new, SamplingParameters(), TextOutput())


def scored(prompt: Iterable[int], n_new: int = 1) -> Sequence:
    """Returns a sequence whose prompt is scored."""
    to_score = sequence(prompt, n_new)
    to_score.scores_prompt = True
    return to_score


def unlike(i: int, length: int) -> Iterable[int]:
    """Returns a prompt that shares no prefix with those of other `i`."""
    return range(1000 * i, 1000 * i + length)


def next_token(tokens: "array[int]") -> int:
    """Returns a token so that the text repeats itself, but not for long."""
    return (sum(tokens) + len(tokens) // 9) % 7


def decodes_next(sequence: Sequence) -> bool:
    return sequence.n_generated > 0 and sequence.n_remaining == 1


class Steps:
    """A scheduler on a fake memory. Each token is a function of those before it; a sequence ends at its limit."""

    def __init__(
        self,
        *,
        n_cells: int = 1000,
        max_running: int = 8,
        batch_tokens: int = 64,
        prefill_chunk: int = 64,
        n_cached: int = 8,
        memory: FakeMemory | None = None,
        mixes: bool = True,
        prompt_lookup: int = 0,
        score_rows: int = 64,
    ) -> None:
        self.memory = memory or FakeMemory(n_cells)
        self.cache = KVCache(self.memory, n_cells, max_running + n_cached)
        self.scheduler = Scheduler(
            self.cache, max_running, batch_tokens, prefill_chunk, mixes, prompt_lookup, score_rows
        )
        self.finished: list[Sequence] = []
        self.failed: list[Sequence] = []

    def add(self, *sequences: Sequence) -> None:
        for added in sequences:
            self.scheduler.add(added)

    def step(self) -> list[tuple[Sequence, int]]:
        """Runs one step; returns (sequence, tokens computed) by chunk, or nothing if the memory had no room."""
        scheduler = self.scheduler
        decoding = set(filter(decodes_next, scheduler.running))
        n_preempted = scheduler.n_preempted
        chunks = scheduler.schedule()
        self.check(chunks, decoding, preempted=scheduler.n_preempted > n_preempted)
        for n_computed, chunk in enumerate(chunks):
            try:
                self.memory.compute(chunk.sequence.seq_id, chunk.start, chunk.tokens)
            except NoRoom:
                for earlier in chunks[:n_computed]:
                    self.memory.truncate(earlier.sequence.seq_id, earlier.start)
                if not scheduler.make_room():
                    assert len(scheduler.running) == 1
                    self.failed += scheduler.running
                    scheduler.remove(scheduler.running[0])
                return []
        rows = [(chunk.sequence, chunk.n_rows) for chunk in chunks]
        for chunk in chunks:
            score(chunk)
        sampled = [self.sample(chunk) for chunk in chunks]
        scheduler.commit(chunks, sampled)
        for chunk, tokens in zip(chunks, sampled, strict=True):
            chunk.sequence.tokens.extend(tokens)
            if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                self.finished.append(chunk.sequence)
                scheduler.remove(chunk.sequence)
        return rows

    def sample(self, chunk: Chunk) -> list[int]:
        tokens = chunk.sequence.tokens[:]
        if chunk.samples:
            tokens.append(next_token(tokens))
        for drafted in chunk.draft:
            if tokens[-1] != drafted:
                break
            tokens.append(next_token(tokens))
        return list(tokens[len(chunk.sequence.tokens) :])

    def steps(self, n: int) -> list[list[int]]:
        """Runs `n` steps; returns the tokens computed for each chunk of each step."""
        return [[count for _, count in self.step()] for _ in range(n)]

    def run(self, at_most: int = 10_000) -> None:
        for _ in range(at_most):
            if self.scheduler.idle:
                return
            self.step()
        raise AssertionError(f"still running: {self.scheduler.running}, waiting: {self.scheduler.waiting}")

    def check(self, chunks: list[Chunk], decoding: set[Sequence], *, preempted: bool) -> None:
        """Checks a step. A preempted sequence may run again at once, after others, if all of its prefix is shared."""
        scheduler = self.scheduler
        sequences = [chunk.sequence for chunk in chunks]
        assert len(set(sequences)) == len(sequences)
        assert len(scheduler.running) <= scheduler.max_running
        assert sum(chunk.n_rows for chunk in chunks) <= scheduler.batch_tokens
        assert bool(chunks) or not scheduler.running
        decodes = [s for s in scheduler.running if s in decoding]
        prompts_only = not scheduler.mixes and not decoding.intersection(sequences)
        in_order = sequences[: len(decodes)] == decodes
        assert prompts_only or in_order or preempted, "all decoding sequences must be in the step, before prompts"
        if prompts_only:
            assert not decodes or sum(chunk.count for chunk in chunks) <= scheduler.prefill_chunk
        elif decodes:
            assert sum(chunk.count for chunk in chunks[len(decodes) :]) <= scheduler.prefill_chunk
        for chunk in chunks:
            assert chunk.sequence in scheduler.running
            assert chunk.count > 0
            assert chunk.start == chunk.sequence.n_computed
            assert chunk.start + chunk.count <= len(chunk.sequence.tokens)
            assert chunk.samples == (chunk.start + chunk.count == len(chunk.sequence.tokens))
            assert self.memory.tokens(chunk.sequence.seq_id) == chunk.sequence.tokens[: chunk.start]
            assert not chunk.draft or decodes_next(chunk.sequence)
            assert len(chunk.draft) <= scheduler.prompt_lookup
            assert not chunk.draft or len(chunk.sequence.tokens) + len(chunk.draft) < chunk.sequence.limit
            assert chunk.n_logits == (chunk.n_rows if chunk.scores else chunk.samples + len(chunk.draft))
        assert sum(chunk.count for chunk in chunks if chunk.scores) <= scheduler.score_rows
        n_drafted = sum(len(chunk.draft) for chunk in chunks)
        if n_drafted:
            assert all(map(decodes_next, sequences)), "a step with prompts must have no drafts"
            assert len(chunks) + n_drafted <= max_rows(scheduler.prompt_lookup)
            assert n_drafted <= self.cache.n_free_cells, "drafts must use free cells only"
        for queued in scheduler.waiting:
            assert (queued.seq_id, queued.n_computed) == (NO_SEQ_ID, 0)


# ---- The batch


def test_a_scheduler_without_sequences_is_idle() -> None:
    s = Steps()
    assert s.scheduler.idle
    assert s.scheduler.schedule() == []


def test_a_sequence_is_prefilled_then_decoded_to_its_limit() -> None:
    s = Steps()
    first = sequence(unlike(0, 5), n_new=3)
    s.add(first)
    assert not s.scheduler.idle
    assert s.steps(3) == [[5], [1], [1]]
    assert s.scheduler.idle
    assert first.n_generated == 3


def test_a_long_prompt_is_cut_into_chunks_and_samples_at_its_end() -> None:
    s = Steps(batch_tokens=4)
    first = sequence(unlike(0, 10), n_new=2)
    s.add(first)
    assert s.steps(4) == [[4], [4], [2], [1]]


def test_prompts_share_a_step_in_the_order_of_arrival() -> None:
    s = Steps(batch_tokens=8)
    s.add(*(sequence(unlike(i, 3), n_new=9) for i in range(4)))
    assert s.steps(2) == [[3, 3, 2], [1, 1, 1, 3]]


def test_decoding_goes_first_and_prompts_get_the_prefill_chunk() -> None:
    s = Steps(batch_tokens=64, prefill_chunk=4)
    s.add(sequence(unlike(0, 2), n_new=99), sequence(unlike(1, 2), n_new=99))
    s.step()
    s.add(sequence(unlike(2, 9), n_new=99))
    assert s.steps(4) == [[1, 1, 4], [1, 1, 4], [1, 1, 1], [1, 1, 1]]


def test_a_single_prompt_gets_the_whole_batch() -> None:
    s = Steps(batch_tokens=64, prefill_chunk=4)
    s.add(sequence(unlike(0, 50)))
    assert s.steps(1) == [[50]]


def test_the_batch_bounds_decodes_and_prompts_together() -> None:
    s = Steps(batch_tokens=4, prefill_chunk=64, max_running=4)
    s.add(*(sequence(unlike(i, 1), n_new=99) for i in range(3)))
    s.step()
    s.add(sequence(unlike(3, 5), n_new=99))
    assert s.steps(2) == [[1, 1, 1, 1], [1, 1, 1, 1]]


def test_a_sequence_is_admitted_only_when_a_step_has_room_for_it() -> None:
    """Earlier, it would hold cells and miss prefixes that are computed meanwhile."""
    s = Steps(batch_tokens=8)
    s.add(sequence(unlike(0, 20)), sequence(unlike(1, 4)))
    s.step()
    assert (len(s.scheduler.running), s.cache.n_free_cells) == (1, 980)


def test_no_more_than_max_running_sequences_run() -> None:
    s = Steps(max_running=2)
    s.add(*(sequence(unlike(i, 2), n_new=2) for i in range(5)))
    assert s.steps(6) == [[2, 2], [1, 1], [2, 2], [1, 1], [2], [1]]


def test_a_new_request_joins_at_the_next_step() -> None:
    s = Steps()
    s.add(sequence(unlike(0, 3), n_new=99))
    s.steps(5)
    late = sequence(unlike(1, 3), n_new=1)
    s.add(late)
    s.step()
    assert s.finished == [late]


def test_equal_requests_finish_in_the_order_of_arrival() -> None:
    s = Steps(max_running=3, batch_tokens=16)
    requests = [sequence(unlike(i, 10), n_new=5) for i in range(12)]
    s.add(*requests)
    s.run()
    assert s.finished == requests


# ---- Prefixes


def test_a_sequence_waits_for_a_prefix_that_is_being_computed() -> None:
    s = Steps(batch_tokens=20)
    shared = list(unlike(0, 40))
    first, second = sequence([*shared, 1], n_new=9), sequence([*shared, 2], n_new=9)
    s.add(first, second)
    assert s.steps(4) == [[20], [20], [1, 1], [1, 1]]
    assert (first.n_cached, second.n_cached) == (0, 40)


def test_equal_prompts_under_different_adapters_are_both_computed_at_once() -> None:
    s = Steps(batch_tokens=64)
    first, second = (sequence(unlike(0, 30), n_new=3) for _ in range(2))
    second.prefix_key = PrefixKey(adapter=1)
    s.add(first, second)
    assert s.steps(2) == [[30, 30], [1, 1]]
    assert (first.n_cached, second.n_cached) == (0, 0)


def test_choices_of_one_prompt_compute_it_once() -> None:
    s = Steps(batch_tokens=64)
    choices = [sequence(unlike(0, 40), n_new=3) for _ in range(4)]
    s.add(*choices)
    assert s.steps(2) == [[40], [1, 1, 1, 1]]
    assert [choice.n_cached for choice in choices] == [0, 39, 39, 39]


def test_others_overtake_a_sequence_that_waits_for_a_prefix() -> None:
    s = Steps(batch_tokens=24)
    shared = list(unlike(0, 40))
    s.add(sequence([*shared, 1]), sequence([*shared, 2]), other := sequence(unlike(5, 3)))
    assert s.steps(2) == [[24], [17, 3]]
    assert other in s.finished


@pytest.mark.parametrize(("length", "waits"), [(MIN_SHARED_PREFIX - 1, False), (MIN_SHARED_PREFIX, True)])
def test_a_short_common_prefix_is_not_worth_waiting_for(length: int, waits: bool) -> None:
    s = Steps()
    shared = list(unlike(0, length))
    s.add(sequence([*shared, 1, 1], n_new=9), sequence([*shared, 2, 2], n_new=9))
    assert len(s.step()) == (1 if waits else 2)


def test_no_sequence_waits_for_a_cached_prefix() -> None:
    s = Steps(batch_tokens=64)
    shared = list(unlike(0, 40))
    s.add(sequence(shared))
    s.run()
    s.add(sequence([*shared, 1], n_new=9), sequence([*shared, 2], n_new=9))
    assert s.steps(1) == [[1, 1]]


def test_no_sequence_waits_for_a_recurrent_state_that_it_cannot_use() -> None:
    s = Steps(memory=FakeMemory(1000, recurrent=True))
    s.add(sequence(range(20)), sequence(range(20)), sequence([*range(19), *unlike(1, 5)]))
    assert s.steps(1) == [[20, 20, 24]]


def test_a_sequence_waits_for_a_recurrent_state_that_it_continues() -> None:
    s = Steps(memory=FakeMemory(1000, recurrent=True))
    s.add(sequence(range(20), n_new=3), sequence([*range(20), *unlike(1, 5)], n_new=3))
    assert s.steps(2) == [[20], [1, 5]]


def test_choices_that_continue_a_recurrent_state_share_it() -> None:
    s = Steps(memory=FakeMemory(1000, recurrent=True))
    first = sequence(range(20))
    s.add(first)
    s.run()
    prompt = [*first.tokens, *unlike(1, 20)]
    s.add(*(sequence(prompt) for _ in range(3)))
    assert s.steps(1) == [[21, 21, 21]]


def test_a_sequence_that_waits_for_a_prefix_continues_when_its_owner_is_removed() -> None:
    s = Steps(batch_tokens=16)
    shared = list(unlike(0, 40))
    first, second = sequence([*shared, 1]), sequence([*shared, 2])
    s.add(first, second)
    s.step()
    s.scheduler.remove(first)
    assert s.steps(2) == [[16], [9]]
    assert second.n_cached == 16


def test_the_next_request_of_a_conversation_computes_only_new_tokens() -> None:
    s = Steps()
    first = sequence(unlike(0, 20), n_new=5)
    s.add(first)
    s.run()
    second = sequence([*first.tokens, 1, 2], n_new=1)
    s.add(second)
    assert s.steps(1) == [[3]]  # includes the last generated token, which was not computed
    assert second.n_cached == 24


# ---- Room


def test_no_sequence_overtakes_one_that_waits_for_room() -> None:
    s = Steps(n_cells=20)
    large, small = sequence(unlike(1, 15)), sequence(unlike(2, 2))
    s.add(sequence(unlike(0, 10), n_new=5), large)
    assert s.steps(1) == [[10]]
    s.add(small)
    assert s.steps(3) == [[1], [1], [1]]
    s.run()
    assert s.finished[1:] == [large, small]


def test_the_last_sequence_is_preempted_and_resumed() -> None:
    s = Steps(n_cells=20, batch_tokens=64)
    first, second = sequence(unlike(0, 8), n_new=9), sequence(unlike(1, 8), n_new=9)
    s.add(first, second)
    s.run()
    assert s.finished == [first, second]
    assert s.scheduler.n_preempted == 1
    assert [finished.n_generated for finished in s.finished] == [9, 9]
    assert second.n_cached == 0, "the value of its first admission must stay"


def test_a_preempted_sequence_goes_to_the_head_of_the_queue() -> None:
    s = Steps(n_cells=20, max_running=2)
    first, second, third = (sequence(unlike(i, 8), n_new=9) for i in range(3))
    s.add(first, second, third)
    while not s.scheduler.n_preempted:
        s.step()
    assert list(s.scheduler.waiting) == [second, third]
    s.run()
    assert s.finished == [first, second, third]


def test_the_first_sequence_is_never_preempted() -> None:
    s = Steps(n_cells=30, batch_tokens=16)
    first = sequence(unlike(0, 5), n_new=25)
    s.add(first, *(sequence(unlike(i, 5), n_new=20) for i in range(1, 6)))
    computed = 0
    while first not in s.finished:
        before = first.n_computed
        s.step()
        assert first in s.finished or first.n_computed > before
        computed += 1
    assert computed == 25
    s.run()


def test_cached_prefixes_are_evicted_before_a_sequence_is_preempted() -> None:
    s = Steps(n_cells=20)
    s.add(sequence(unlike(0, 8)))
    s.run()
    s.add(sequence(unlike(1, 8), n_new=12))
    s.run()
    assert s.scheduler.n_preempted == 0


# ---- Removal


def test_a_waiting_sequence_can_be_removed() -> None:
    s = Steps(max_running=1)
    first, second = sequence(unlike(0, 3), n_new=9), sequence(unlike(1, 3))
    s.add(first, second)
    s.step()
    s.scheduler.remove(second)
    assert not s.scheduler.waiting
    s.run()
    assert s.finished == [first]


def test_a_sequence_can_be_removed_before_the_first_step() -> None:
    s = Steps()
    first = sequence(unlike(0, 3))
    s.add(first)
    s.scheduler.remove(first)
    assert s.scheduler.idle
    assert s.cache.n_free_cells == 1000


def test_a_sequence_removed_during_prefill_leaves_its_prefix_cached() -> None:
    s = Steps(batch_tokens=16)
    first = sequence(unlike(0, 40))
    s.add(first)
    s.step()
    s.scheduler.remove(first)
    assert s.scheduler.idle
    assert (s.cache.n_free_cells, first.seq_id) == (1000 - 16, NO_SEQ_ID)
    again = sequence(unlike(0, 40))
    s.add(again)
    s.run()
    assert again.n_cached == 16


def test_a_decoding_sequence_can_be_removed() -> None:
    s = Steps()
    first, other = sequence(unlike(0, 3), n_new=9), sequence(unlike(1, 3), n_new=9)
    s.add(first, other)
    s.steps(3)
    s.scheduler.remove(first)
    assert s.steps(1) == [[1]]
    s.run()
    assert s.finished == [other]


def test_a_preempted_sequence_can_be_removed() -> None:
    s = Steps(n_cells=20)
    first, second = sequence(unlike(0, 8), n_new=9), sequence(unlike(1, 8), n_new=9)
    s.add(first, second)
    while not s.scheduler.n_preempted:
        s.step()
    s.scheduler.remove(second)
    s.run()
    assert s.finished == [first]
    s.cache.evict_all()
    assert s.cache.n_free_cells == 20


# ---- Memory that is smaller than declared


def test_make_room_evicts_cached_prefixes_then_preempts_the_last_sequence() -> None:
    s = Steps()
    s.add(sequence(unlike(9, 5)))
    s.run()
    first, second = sequence(unlike(0, 5), n_new=9), sequence(unlike(1, 5), n_new=9)
    s.add(first, second)
    s.step()
    assert s.scheduler.make_room()
    assert (s.cache.n_cached_sequences, s.scheduler.running) == (0, [first, second])
    assert s.scheduler.make_room()
    assert s.scheduler.running == [first]
    assert list(s.scheduler.waiting) == [second]


def test_make_room_fails_for_a_single_sequence() -> None:
    s = Steps()
    first = sequence(unlike(0, 5), n_new=9)
    s.add(first)
    s.step()
    assert not s.scheduler.make_room()
    assert s.scheduler.running == [first]


def test_a_step_after_make_room_leaves_the_preempted_sequence_out() -> None:
    s = Steps()
    first, second = sequence(unlike(0, 5), n_new=9), sequence(unlike(1, 5), n_new=9)
    s.add(first, second)
    s.step()
    assert s.scheduler.make_room()
    assert [scheduled for scheduled, _ in s.step()] == [first]
    assert [scheduled for scheduled, _ in s.step()] == [first, second]


def test_a_preempted_sequence_waits_until_a_step_has_succeeded() -> None:
    s = Steps()
    first, second, third = (sequence(unlike(i, 5), n_new=9) for i in range(3))
    s.add(first, second, third)
    s.step()
    assert s.scheduler.make_room()  # preempts the third
    s.scheduler.schedule()
    assert s.scheduler.make_room()  # evicts its cells
    assert [scheduled for scheduled, _ in s.step()] == [first, second]


def test_a_preempted_sequence_runs_again_when_the_others_are_removed() -> None:
    s = Steps()
    first, second = sequence(unlike(0, 5), n_new=9), sequence(unlike(1, 5), n_new=9)
    s.add(first, second)
    s.step()
    assert s.scheduler.make_room()
    s.scheduler.remove(first)
    assert [scheduled for scheduled, _ in s.step()] == [second]


@pytest.mark.parametrize("n_new", [1, 12])
def test_every_sequence_finishes_on_a_memory_smaller_than_declared(n_new: int) -> None:
    s = Steps(n_cells=60, memory=FakeMemory(22))
    requests = [sequence(unlike(i, 10), n_new=n_new) for i in range(5)]
    s.add(*requests)
    s.run(at_most=500)
    assert sorted(map(id, s.finished)) == sorted(map(id, requests))


def test_a_sequence_that_does_not_fit_alone_fails_alone() -> None:
    s = Steps(n_cells=60, memory=FakeMemory(12))
    large, small = sequence(unlike(0, 13)), sequence(unlike(1, 5))
    s.add(large, small)
    s.run(at_most=100)
    assert (s.failed, s.finished) == ([large], [small])


# ---- Random workloads


@given(data=st.data())
def test_every_sequence_of_any_workload_finishes(data: st.DataObject) -> None:
    """Sequences that are not removed finish with all their tokens, and all cells are free at the end."""
    n_cells = data.draw(st.integers(40, 120), "cells")
    max_running = data.draw(st.integers(1, 4), "running")
    kind = data.draw(st.sampled_from(["full", "window", "recurrent", "small"]), "memory")
    s = Steps(
        n_cells=n_cells,
        max_running=max_running,
        batch_tokens=data.draw(st.integers(max_running, 24), "batch"),
        prefill_chunk=data.draw(st.integers(1, 24), "chunk"),
        n_cached=data.draw(st.integers(0, 4), "cached"),
        mixes=data.draw(st.booleans(), "mixes"),
        prompt_lookup=data.draw(st.sampled_from([0, 1, 4, 16]), "lookup") if kind in ("full", "small") else 0,
        memory=FakeMemory(
            # "small" is smaller than declared
            40 if kind == "small" else n_cells,
            window=5 if kind == "window" else None,
            recurrent=kind == "recurrent",
        ),
    )
    shared = data.draw(st.lists(st.integers(0, 20), min_size=3, max_size=3), "shared")
    live: list[Sequence] = []
    added: list[Sequence] = []
    aborted: list[Sequence] = []
    for action in data.draw(st.lists(st.sampled_from(["add", "add", "step", "step", "step", "abort"]), max_size=40)):
        live = [running for running in live if running not in s.finished]
        if action == "add":
            i = data.draw(st.integers(0, 2))
            prompt = [*unlike(i, shared[i]), *data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=10))]
            live.append(sequence(prompt, n_new=data.draw(st.integers(1, 40 - len(prompt)))))
            added.append(live[-1])
            s.add(live[-1])
        elif action == "abort" and live:
            aborted.append(live.pop(data.draw(st.integers(0, len(live) - 1))))
            s.scheduler.remove(aborted[-1])
        else:
            s.step()
    s.run(at_most=3000)
    assert not s.failed
    assert {*s.finished, *aborted} == set(added)
    assert all(len(finished.tokens) == finished.limit for finished in s.finished)
    for finished in s.finished:
        tokens = finished.tokens[: finished.n_prompt]
        for _ in range(finished.n_generated):
            tokens.append(next_token(tokens))
        assert tokens == finished.tokens
    s.cache.evict_all()
    assert s.cache.n_free_cells == n_cells
    assert not s.memory.sequences


# ---- Steps without mixing


def test_prefill_and_decoding_take_turns() -> None:
    s = Steps(prefill_chunk=40, mixes=False)
    s.add(sequence(unlike(1, 10), n_new=9), sequence(unlike(2, 10), n_new=9))
    assert s.steps(2) == [[10, 10], [1, 1]]
    s.add(sequence(unlike(3, 90), n_new=2))
    assert s.steps(7) == [[40], [1, 1], [40], [1, 1], [10], [1, 1, 1], [1, 1]]


def test_a_single_prompt_is_read_in_consecutive_steps() -> None:
    s = Steps(prefill_chunk=10, batch_tokens=64, mixes=False)
    s.add(sequence(unlike(1, 100), n_new=2))
    assert s.steps(3) == [[64], [36], [1]]


def test_several_prompts_are_read_before_few_decoding_sequences_continue() -> None:
    s = Steps(batch_tokens=200, prefill_chunk=40, mixes=False)
    s.add(sequence(unlike(9, 10), n_new=9))
    assert s.steps(1) == [[10]]
    s.add(*(sequence(unlike(i, 40), n_new=9) for i in range(1, 6)))
    assert s.steps(6) == [[40], [40], [1, 1, 1], [40], [1, 1, 1, 1], [40]]


def test_many_prompts_delay_decoding_by_at_most_a_batch() -> None:
    s = Steps(batch_tokens=64, prefill_chunk=40, max_running=16, mixes=False)
    s.add(sequence(unlike(9, 64), n_new=9))
    assert s.steps(1) == [[64]]
    s.add(*(sequence(unlike(i, 40), n_new=9) for i in range(1, 9)))
    assert s.steps(6) == [[1], [40], [40], [1, 1, 1], [40], [40]]


def test_decoding_does_not_wait_for_prompts_that_cannot_be_admitted() -> None:
    s = Steps(batch_tokens=40, max_running=2, mixes=False)
    s.add(*(sequence(unlike(i, 40), n_new=9) for i in range(1, 9)))
    assert s.steps(5) == [[40], [1], [40], [1, 1], [1, 1]]


# ---- Drafts


def repeating(i: int = 0) -> Sequence:
    """Returns a sequence whose text soon repeats itself."""
    return sequence([*unlike(i, 2), 1, 2, 4], n_new=30)


def test_tokens_are_the_same_with_drafts() -> None:
    s, plain = Steps(prompt_lookup=4), Steps()
    drafting, expected = repeating(), repeating()
    s.add(drafting)
    plain.add(expected)
    s.run()
    plain.run()
    assert drafting.tokens == expected.tokens
    assert drafting.limit == len(drafting.tokens)


def test_drafts_save_steps() -> None:
    counts = []
    for prompt_lookup in (0, 1, 4):
        s = Steps(prompt_lookup=prompt_lookup)
        s.add(repeating())
        n_steps = 0
        while not s.scheduler.idle:
            s.step()
            n_steps += 1
        counts.append(n_steps)
    assert counts[0] == 30
    assert counts[0] > counts[1] > counts[2]


def test_rejected_draft_tokens_free_their_cells() -> None:
    s = Steps(prompt_lookup=4)
    first = repeating()
    s.add(first)
    n_rejected = 0
    while not s.scheduler.idle:
        before = len(first.tokens)
        rows = s.steps(1)[0][0]
        if first.seq_id != NO_SEQ_ID and before > first.n_prompt:
            n_rejected += rows - (len(first.tokens) - before)
            assert s.memory.tokens(first.seq_id) == first.tokens[:-1]
            assert s.cache.n_free_cells == 1000 - first.n_computed
    assert n_rejected > 0


def test_drafting_sequences_share_the_rows_of_a_step() -> None:
    s = Steps(prompt_lookup=4)
    s.add(*(repeating(i) for i in range(3)))
    assert s.steps(1) == [[5, 5, 5]]
    steps = s.steps(12)
    assert max(sum(step) for step in steps) == max_rows(4)
    assert any(min(step) > 1 for step in steps), "each sequence must get a draft"


def test_many_sequences_get_no_drafts() -> None:
    s = Steps(prompt_lookup=4)
    s.add(*(repeating(i) for i in range(8)))
    assert s.steps(20)[1:] == [[1] * 8] * 19


def test_a_step_with_a_prompt_has_no_drafts() -> None:
    s = Steps(prompt_lookup=4, prefill_chunk=10)
    s.add(repeating(), sequence(unlike(5, 200)))
    steps = s.steps(10)
    assert all(step[0] == 1 for step in steps[1:])


def test_drafts_use_only_free_cells() -> None:
    """They evict no cached prefix and take no cells that others need in the same step."""
    s = Steps(prompt_lookup=4, n_cells=44)
    s.add(sequence(unlike(9, 10)))
    s.run()
    first = sequence([1, 2, 4, 1, 2], n_new=27)
    s.add(first)
    while not s.scheduler.idle:
        s.step()
    assert s.cache.n_cached_sequences == 2
    assert s.scheduler.n_preempted == 0


def test_a_full_cache_leaves_no_room_for_drafts() -> None:
    """The cells are exactly those that the two sequences need."""
    s = Steps(prompt_lookup=16, n_cells=2 * 34)
    s.add(repeating(0), repeating(1))
    s.run()
    assert s.scheduler.n_preempted == 0
    assert len(s.finished) == 2


def test_a_preempted_sequence_with_drafts_generates_the_same_tokens() -> None:
    s, plain = Steps(prompt_lookup=4, n_cells=40), Steps()
    requests, others = [[repeating(i) for i in range(2)] for _ in range(2)]
    s.add(*requests)
    plain.add(*others)
    s.run()
    plain.run()
    assert s.scheduler.n_preempted > 0
    assert [request.tokens for request in requests] == [other.tokens for other in others]


def test_a_drafting_sequence_can_be_removed() -> None:
    s = Steps(prompt_lookup=4)
    first = repeating()
    s.add(first)
    s.steps(5)
    s.scheduler.remove(first)
    assert s.scheduler.idle
    again = sequence([*first.tokens, 5])
    s.add(again)
    assert s.steps(1) == [[2]]  # includes the first one's last token, which was not computed


# ---- Scored prompts


def scores(seq: Sequence) -> list[tuple[int, int]]:
    """Returns (token, position) of each score."""
    return [(s.token, int(-s.logprob)) for s in seq.scored]


def expected_scores(seq: Sequence) -> list[tuple[int, int]]:
    return [(token, position) for position, token in enumerate(seq.tokens[: seq.n_prompt])][1:]


@pytest.mark.parametrize("length", [1, 2, 9, 10, 11, 20, 21, 35])
def test_a_long_prompt_is_scored_completely_in_several_steps(length: int) -> None:
    steps = Steps(score_rows=10)
    to_score = scored(unlike(1, length), 3)
    steps.add(to_score)
    parts = [10] * ((length - 1) // 10) + [1] if length % 10 == 1 else [10] * (length // 10) + [length % 10]
    assert steps.steps(len(parts)) == [[n] for n in parts if n] + [[1]] * (not parts[-1])
    steps.run()
    assert scores(to_score) == expected_scores(to_score)
    assert steps.finished == [to_score]


def test_rows_of_scored_prompts_are_limited_and_others_get_the_rest() -> None:
    steps = Steps(batch_tokens=50, score_rows=10)
    first, second, plain = scored(unlike(1, 15), 2), scored(unlike(2, 15), 2), sequence(unlike(3, 70), 2)
    steps.add(first, second, plain)
    assert steps.step() == [(first, 10), (plain, 40)]
    assert steps.step() == [(first, 5), (plain, 30), (second, 5)]
    assert steps.step() == [(first, 1), (plain, 1), (second, 10)]
    steps.run()
    assert scores(second) == expected_scores(second)


def test_scored_prompts_are_served_in_order_of_arrival() -> None:
    steps = Steps(batch_tokens=50, score_rows=10, max_running=2)
    queue = [scored(unlike(i, 25), 1) for i in range(5)]
    steps.add(*queue, *(plain := [sequence(unlike(10 + i, 5), 1) for i in range(5)]))
    steps.run()
    assert [s for s in steps.finished if s in queue] == queue
    assert [s for s in steps.finished if s in plain] == plain


def test_a_scored_prompt_neither_uses_nor_awaits_a_prefix() -> None:
    steps = Steps(batch_tokens=60)
    steps.add(sequence(range(40), 2))
    steps.run()
    again, running, to_score = scored(range(40)), sequence(range(100, 150)), scored([*range(100, 150), 5])
    steps.add(again, running, to_score)
    assert steps.step() == [(again, 40), (running, 20)], "a cached prefix must be computed again"
    assert steps.step() == [(running, 30), (to_score, 30)]
    steps.run()
    assert scores(to_score) == expected_scores(to_score)


def test_a_scored_prompt_is_cached_for_others() -> None:
    steps = Steps()
    steps.add(scored(range(40)))
    steps.run()
    steps.add(sequence([*range(40), 99]))
    assert steps.steps(1) == [[1]]


@pytest.mark.parametrize("n_cells", [36, 39, 42])
def test_scoring_continues_after_preemption(n_cells: int) -> None:
    steps = Steps(n_cells=n_cells, score_rows=4, batch_tokens=8, prefill_chunk=8, n_cached=0)
    decoding, to_score = sequence(unlike(1, 5), 30), scored(unlike(2, 30), 3)
    steps.add(decoding)
    steps.step()
    steps.add(to_score)
    n_preempted_midway = 0
    while not steps.scheduler.idle:
        before = steps.scheduler.n_preempted
        steps.step()
        n_preempted_midway += steps.scheduler.n_preempted > before and 1 < to_score.n_scored < to_score.n_prompt
    assert scores(to_score) == expected_scores(to_score)
    assert steps.finished == [decoding, to_score]
    assert n_preempted_midway, "the sizes must cause a preemption midway"


def test_a_preempted_sequence_is_not_scored_twice() -> None:
    steps = Steps(n_cells=64, n_cached=8)
    first, second = sequence(unlike(1, 10), 30), scored(unlike(2, 10), 30)
    steps.add(first, second)
    steps.run()
    assert steps.scheduler.n_preempted > 0
    assert scores(second) == expected_scores(second)


@given(
    prompts=st.lists(st.tuples(st.booleans(), st.integers(1, 60), st.integers(1, 12)), min_size=1, max_size=8),
    n_cells=st.integers(75, 160),
    score_rows=st.integers(1, 20),
    mixes=st.booleans(),
    prompt_lookup=st.sampled_from([0, 3]),
)
def test_every_sequence_finishes_and_is_scored_once(
    prompts: list[tuple[bool, int, int]], n_cells: int, score_rows: int, mixes: bool, prompt_lookup: int
) -> None:
    steps = Steps(n_cells=n_cells, score_rows=score_rows, mixes=mixes, prompt_lookup=prompt_lookup, batch_tokens=32)
    sequences = [
        (scored if is_scored else sequence)((k % 5 for k in range(length)), n_new)
        for is_scored, length, n_new in prompts
    ]
    steps.add(*sequences)
    steps.run()
    assert len(steps.finished) == len(sequences)
    for finished in sequences:
        assert scores(finished) == (expected_scores(finished) if finished.scores_prompt else [])
