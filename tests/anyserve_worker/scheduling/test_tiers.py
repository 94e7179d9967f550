"""Background work beside ordinary work: what a step has of it, what it yields, and that it never starves."""

from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.scheduling.background import (
    CHECK_STEPS,
    MAX_GROWTH,
    RECENT_SECONDS,
    SHORT_STEP_SECONDS,
    BackgroundPolicy,
)
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.scheduler import Scheduler
from anyserve_worker.scheduling.sequence import NO_SEQ_ID, Sequence
from anyserve_worker.scheduling.tiers import Kind, Step, Tiers, tier_of
from anyserve_worker.text.output import TextOutput
from protos import contract
from tests.anyserve_worker.fakes import FakeMemory
from tests.examples import examples

CPU = 0.003
"""Seconds of a row where each row costs as much as the first one."""
GPU = 0.00001
"""Seconds of a row where rows cost next to nothing."""
STEP = 0.003
"""Seconds of a step beside those of its rows."""


def sequence(number: int, length: int, n_new: int, priority: int = 0) -> Sequence:
    """Returns a sequence whose prompt has no common prefix with those of other numbers."""
    tokens = array("i", range(1000 * number, 1000 * number + length))
    return Sequence(
        0, tokens, length, length + n_new, SamplingParameters(), TextOutput(), priority=priority, caller=str(number)
    )


def batch(numbers: Iterable[int], length: int = 10, n_new: int = 30) -> list[Sequence]:
    return [sequence(number, length, n_new, contract.BATCH_PRIORITY) for number in numbers]


@dataclass
class Machine:
    """Runs steps on a clock. A step takes STEP seconds, `row` for each row, and a tenth of it for other tokens."""

    row: float = CPU
    share: float = 0.05
    interruptible: bool = True
    n_cells: int = 2000
    max_running: int = 8
    n_cached: int = 8
    memory: FakeMemory = field(init=False)
    now: float = 0.0
    steps: list[tuple[Step, float]] = field(default_factory=list)
    """The computed steps, with their seconds."""
    finished: list[Sequence] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.memory = FakeMemory(self.n_cells)
        self.cache = KVCache(self.memory, self.n_cells, self.max_running + self.n_cached)
        ordinary = Scheduler(self.cache, self.max_running, 64, 32)
        self.tiers = Tiers(ordinary, BackgroundPolicy(self.share, self.interruptible))

    def add(self, *sequences: Sequence) -> None:
        for added in sequences:
            self.tiers.add(added)

    def step(self) -> Step:
        step = self.tiers.schedule(self.now)
        self.check(step)
        if not step.chunks:
            self.now += STEP
            return step
        for chunk in step.chunks:
            self.memory.compute(chunk.sequence.seq_id, chunk.start, chunk.tokens)
        seconds = self.seconds(step.chunks)
        self.now += seconds
        self.steps.append((step, seconds))
        if step.sets_pace:
            self.tiers.pace.record(step.n_tokens, seconds)
        sampled = [[1] if chunk.samples else [] for chunk in step.chunks]
        self.tiers.commit(step, sampled)
        for chunk, tokens in zip(step.chunks, sampled, strict=True):
            chunk.sequence.tokens.extend(tokens)
            if len(chunk.sequence.tokens) >= chunk.sequence.limit:
                self.tiers.remove(chunk.sequence)
                self.finished.append(chunk.sequence)
        self.tiers.record(step, seconds)
        return step

    def seconds(self, chunks: list[Chunk]) -> float:
        return STEP + self.row * sum(1 if chunk.count == 1 else 0.1 * chunk.count for chunk in chunks)

    def run(self, at_most: int = 20_000) -> None:
        for _ in range(at_most):
            if self.tiers.idle:
                return
            self.step()
        raise AssertionError("still running")

    def check(self, step: Step) -> None:
        sequences = [chunk.sequence for chunk in step.chunks]
        assert len(set(sequences)) == len(sequences)
        assert step.n_tokens <= self.tiers.ordinary.batch_tokens
        assert sum(n for _, n in step.parts) == len(sequences)
        tiers = [tier_of(s.priority) for s in sequences]
        assert tiers == [scheduler.tier for scheduler, n in step.parts for _ in range(n)]
        assert all(s.seq_id != NO_SEQ_ID for s in sequences)
        if step.kind in (Kind.SHARE, Kind.ALONE):
            assert 0 not in tiers
        if step.kind is Kind.ALONE:
            assert self.tiers.ordinary.idle
        n_ordinary = len(self.tiers.ordinary.running)
        assert self.tiers.n_running - n_ordinary <= max(1, self.max_running - n_ordinary) + 1

    def of_kind(self, kind: Kind) -> list[tuple[Step, float]]:
        return [(step, seconds) for step, seconds in self.steps if step.kind is kind]


# ---- Without background work, or with nothing else


def test_without_background_work_steps_are_ordinary() -> None:
    machine = Machine()
    machine.add(*(sequence(k, 20, 5) for k in range(3)))
    machine.run()
    assert {step.kind for step, _ in machine.steps} == {Kind.ORDINARY}
    assert machine.tiers.n_preempted == 0


@pytest.mark.parametrize(
    ("priority", "tier"),
    [
        (contract.URGENT_PRIORITY, 0),
        (0, 0),
        (contract.BACKGROUND_PRIORITY - 1, 0),
        (contract.FLEX_PRIORITY, 1),
        (contract.BATCH_PRIORITY - 1, 1),
        (contract.BATCH_PRIORITY, 2),
    ],
)
def test_tier_of_a_priority(priority: int, tier: int) -> None:
    assert tier_of(priority) == tier


def test_background_work_alone_takes_the_same_steps_as_ordinary_work() -> None:
    counts = []
    for priority in (0, contract.FLEX_PRIORITY, contract.BATCH_PRIORITY):
        machine = Machine()
        machine.add(*(sequence(k, 10 + k, 20, priority) for k in range(20)))
        machine.run()
        counts.append([[chunk.count for chunk in step.chunks] for step, _ in machine.steps])
    assert counts[0] == counts[1] == counts[2]


# ---- What ordinary work is spared


arrivals = st.lists(
    st.tuples(st.integers(0, 12), st.integers(1, 120), st.integers(1, 12), st.sampled_from([-1, 0, 5])),
    min_size=1,
    max_size=12,
)


def ordinary_chunks(
    arrivals: list[tuple[int, int, int, int]], n_background: int, n_cells: int
) -> list[list[tuple[int, int, int]]]:
    """Returns (number, start, count) of the ordinary chunks of each step with any.

    Each sequence arrives a number of ordinary steps after the one before, or when there is nothing else to do.
    """
    machine = Machine(share=0, n_cells=n_cells, max_running=4)
    machine.add(*(sequence(100 + k, 10 + 7 * k, 40, contract.BATCH_PRIORITY - k % 2) for k in range(n_background)))
    numbers: dict[Sequence, int] = {}
    chunks: list[list[tuple[int, int, int]]] = []
    for number, (pause, length, n_new, priority) in enumerate(arrivals):
        for _ in range(4):  # Background work gets all slots again.
            if machine.tiers.ordinary.idle:
                machine.step()
        n_before = len(chunks)
        while not machine.tiers.ordinary.idle and len(chunks) < n_before + pause:
            chunks += step_of(machine, numbers)
        added = sequence(number, length, n_new, priority)
        numbers[added] = number
        machine.add(added)
    while not machine.tiers.ordinary.idle:
        chunks += step_of(machine, numbers)
    machine.run()
    assert len(machine.finished) == len(arrivals) + n_background
    return chunks


def step_of(machine: Machine, numbers: dict[Sequence, int]) -> list[list[tuple[int, int, int]]]:
    step = machine.step()
    found = [(numbers[c.sequence], c.start, c.count) for c in step.chunks if c.sequence in numbers]
    return [found] if found else []


@given(arrivals, st.integers(1, 12), st.sampled_from([200, 400, 2000]))
@settings(max_examples=examples(60), deadline=None)
def test_ordinary_work_has_the_steps_that_it_has_without_background_work(
    arrivals: list[tuple[int, int, int, int]], n_background: int, n_cells: int
) -> None:
    assert ordinary_chunks(arrivals, n_background, n_cells) == ordinary_chunks(arrivals, 0, n_cells)


def test_an_arrival_takes_slots_and_cells_of_background_work() -> None:
    machine = Machine(n_cells=300, max_running=4)
    machine.add(*batch(range(100, 104), length=60, n_new=15))
    for _ in range(8):
        machine.step()
    assert len(machine.tiers.running) == 4
    machine.add(sequence(0, 200, 5))
    while not machine.finished:
        step = machine.step()
        assert step.chunks[0].sequence.priority == 0
    assert machine.tiers.n_background_preempted >= 2
    machine.run()
    assert len(machine.finished) == 5


def test_paused_background_work_keeps_its_cells_and_is_not_computed_again() -> None:
    machine = Machine(max_running=4, share=0)
    work = batch(range(100, 104), length=60, n_new=15)
    machine.add(*work)
    machine.add(*(sequence(k, 20, 10) for k in range(4)))
    machine.run()
    computed: Counter[Sequence] = Counter()
    for step, _ in machine.steps:
        for chunk in step.chunks:
            computed[chunk.sequence] += chunk.count
    assert computed == Counter({s: s.limit - 1 for s in machine.finished})


def test_a_preempted_sequence_finds_its_prefix_cached() -> None:
    machine = Machine(max_running=2, share=0)
    [line, other] = batch([100, 101], length=60, n_new=15)
    machine.add(line, other)
    for _ in range(10):
        machine.step()
    n_computed = other.n_computed
    machine.add(sequence(0, 20, 3), sequence(1, 20, 3))
    machine.step()
    assert (other.seq_id, other.n_computed) == (NO_SEQ_ID, 0)
    while other.seq_id == NO_SEQ_ID:
        step = machine.step()
    [start] = [chunk.start for chunk in step.chunks if chunk.sequence is other]
    assert start == n_computed
    machine.run()


def test_prefixes_of_ordinary_work_outlive_background_work() -> None:
    machine = Machine(n_cells=600, max_running=8, n_cached=2)
    conversation = sequence(0, 100, 5)
    machine.add(conversation)
    machine.run()
    machine.add(*batch(range(100, 140), length=30, n_new=20))
    machine.run()
    assert machine.cache.best_prefix(array("i", [*conversation.tokens, 7, 8]), conversation.prefix_key)[1] == 104


def test_background_work_evicts_prefixes_if_it_could_not_run_otherwise() -> None:
    machine = Machine(n_cells=100, max_running=2)
    machine.add(sequence(0, 80, 5))
    machine.run()
    machine.add(*batch([100], length=90, n_new=5))
    machine.run()
    assert len(machine.finished) == 2


# ---- Rows beside ordinary ones


def test_rows_that_cost_nothing_are_added() -> None:
    machine = Machine(row=GPU, share=0, max_running=16)
    machine.add(sequence(0, 20, 200), *batch(range(100, 108)))
    machine.run()
    assert len(machine.finished) == 9
    assert machine.finished[-1].priority == 0, "the lines end while the ordinary sequence runs"
    alone = min(seconds for step, seconds in machine.steps if len(step.chunks) == 1)
    growth = [s / alone - 1 for step, s in machine.steps if all(chunk.count == 1 for chunk in step.chunks)]
    assert max(growth) < 1.5 * MAX_GROWTH  # A step that is the first with this many rows may be too long.


def test_rows_that_cost_time_are_not_added() -> None:
    machine = Machine(row=CPU, share=0)
    machine.add(sequence(0, 20, 500), *batch(range(100, 108)))
    while not machine.finished:
        machine.step()
    n_added = sum(step.n_background_tokens > 0 for step, _ in machine.of_kind(Kind.BESIDE))
    assert n_added <= 2, "only to measure them"


def test_prompts_are_added_where_they_cost_nothing() -> None:
    machine = Machine(row=GPU, share=0, max_running=16)
    machine.add(sequence(0, 20, 600))
    machine.add(*batch(range(100, 130), length=100, n_new=2))
    machine.run()
    assert len(machine.finished) == 31
    assert machine.finished[-1].priority == 0


def test_some_steps_go_without_background_rows() -> None:
    machine = Machine(row=GPU, share=0, max_running=16)
    machine.add(sequence(0, 20, 300), *batch(range(100, 104), n_new=500))
    while not machine.finished:
        machine.step()
    without = [step.n_background_tokens == 0 for step, _ in machine.of_kind(Kind.BESIDE)][50:]
    assert len(without) // (2 * CHECK_STEPS) <= sum(without) <= len(without) // (CHECK_STEPS // 2)


# ---- The minimum share


def load_for(machine: Machine, seconds: float, n_running: int = 8) -> None:
    """Keeps ordinary sequences running until this time."""
    number = 0
    while machine.now < seconds:
        while len(machine.tiers.ordinary.running) + len(machine.tiers.ordinary.waiting) < n_running:
            number += 1
            machine.add(sequence(number, 20, 30))
        machine.step()


@pytest.mark.parametrize("share", [0.05, 0.2])
def test_held_back_work_gets_its_share(share: float) -> None:
    machine = Machine(share=share)
    machine.add(*batch(range(1000, 2000)))
    load_for(machine, 60)
    seconds = sum(seconds for _, seconds in machine.of_kind(Kind.SHARE))
    assert 0.9 * share < seconds / machine.now < 1.1 * share
    assert max(seconds for _, seconds in machine.of_kind(Kind.SHARE)) < 1.5 * SHORT_STEP_SECONDS
    assert any(s.priority == contract.BATCH_PRIORITY for s in machine.finished)


def test_without_a_share_held_back_work_waits() -> None:
    machine = Machine(share=0)
    machine.add(*batch(range(1000, 1020)))
    load_for(machine, 10)
    assert not machine.of_kind(Kind.SHARE)


def test_work_that_is_not_held_back_needs_no_share() -> None:
    machine = Machine(row=GPU, max_running=16)
    machine.add(sequence(0, 20, 500), *batch(range(100, 102), n_new=400))
    while not machine.finished:
        machine.step()
    assert sum(seconds for _, seconds in machine.of_kind(Kind.SHARE)) < 0.01 * machine.now


def test_a_share_saves_up_no_burst() -> None:
    machine = Machine()
    load_for(machine, 30)
    machine.add(*batch(range(1000, 1020)))
    kinds = [machine.step().kind for _ in range(8)]
    assert Kind.SHARE not in kinds


# ---- The length of steps


def test_after_an_interruption_steps_are_short_and_grow() -> None:
    machine = Machine(max_running=32, n_cells=10_000)
    machine.add(*batch(range(100, 132), n_new=200))
    for _ in range(60):
        machine.step()
    step = machine.tiers.schedule(machine.now)
    assert len(step.chunks) == 32
    machine.tiers.roll_back(step)
    counts = [len(machine.step().chunks) for _ in range(8)]
    assert counts[0] < 10
    assert counts == sorted(counts)
    assert counts[-1] == 32
    machine.run()


def test_an_interrupted_step_is_computed_again() -> None:
    machine = Machine(max_running=4)
    machine.add(*batch(range(100, 104), length=40))
    for n_step in range(40):
        if n_step % 3 == 0:
            step = machine.tiers.schedule(machine.now)
            for chunk in step.chunks[: n_step % 5]:  # What earlier parts of the step have left in the memory.
                machine.memory.compute(chunk.sequence.seq_id, chunk.start, chunk.tokens)
            machine.tiers.roll_back(step)
        machine.step()
    machine.run()
    assert len(machine.finished) == 4


def test_steps_that_can_not_be_interrupted_are_short_while_ordinary_work_is_expected() -> None:
    machine = Machine(interruptible=False, max_running=32, n_cells=50_000)
    machine.add(*batch(range(100, 132), length=40, n_new=900))
    machine.step()
    load_for(machine, machine.now + 1, n_running=1)
    while not machine.tiers.ordinary.idle:
        machine.step()
    last, n_before = machine.now, len(machine.steps)
    while machine.now < last + RECENT_SECONDS / 2:
        machine.step()
    assert max(seconds for _, seconds in machine.steps[n_before:]) < 1.5 * SHORT_STEP_SECONDS
    while machine.now < last + 2 * RECENT_SECONDS:
        machine.step()
    assert len(machine.step().chunks) == 32


# ---- Flex and batch


def test_flex_comes_before_batches() -> None:
    machine = Machine(max_running=4)
    machine.add(*batch(range(100, 120)))
    for _ in range(3):
        machine.step()
    flex = [sequence(k, 10, 30, contract.FLEX_PRIORITY) for k in range(4)]
    machine.add(*flex)
    while any(s not in machine.finished for s in flex):
        machine.step()
    assert len(machine.finished) <= 6
    machine.run()
    assert len(machine.finished) == 24


def test_flex_does_not_starve_batches() -> None:
    machine = Machine(max_running=4)
    [line] = batch([5000], n_new=5)
    machine.add(line)
    number = 0
    while line not in machine.finished:
        assert machine.now < 60
        while machine.tiers.n_running + machine.tiers.n_waiting < 9:
            number += 1
            machine.add(sequence(number, 20, 30, contract.FLEX_PRIORITY))
        if number % 2 and machine.tiers.ordinary.idle:
            number += 1
            machine.add(sequence(number, 20, 30))
        machine.step()


# ---- Cancellation, and everything together


@given(
    st.lists(
        st.tuples(
            st.integers(0, 9),
            st.integers(1, 90),
            st.integers(1, 20),
            st.sampled_from([0, contract.FLEX_PRIORITY, contract.BATCH_PRIORITY]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=20,
    ),
    st.sampled_from([120, 300, 1000]),
    st.sampled_from([CPU, GPU]),
    st.sampled_from([None, 16]),
    st.booleans(),
)
@settings(max_examples=examples(100), deadline=None)
def test_every_sequence_finishes_or_is_cancelled(
    arrivals: list[tuple[int, int, int, int, bool, bool]],
    n_cells: int,
    row: float,
    window: int | None,
    recurrent: bool,
) -> None:
    machine = Machine(row=row, n_cells=n_cells, max_running=3, interruptible=window is None and not recurrent)
    machine.memory.window, machine.memory.recurrent = window, recurrent
    kept: list[Sequence] = []
    cancelled: list[Sequence] = []
    for number, (pause, length, n_new, priority, cancels, shares) in enumerate(arrivals):
        added = sequence(0 if shares else number, length, n_new, priority)
        (cancelled if cancels else kept).append(added)
        machine.add(added)
        for _ in range(pause):
            machine.step()
    for gone in cancelled:
        if gone not in machine.finished:
            machine.tiers.remove(gone)
    machine.run()
    assert set(kept) <= set(machine.finished)
    machine.cache.evict_all()
    assert machine.cache.n_free_cells == n_cells
