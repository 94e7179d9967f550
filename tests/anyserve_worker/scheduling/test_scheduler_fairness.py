"""Waiting times of prompts of all lengths and callers on one scheduler, on a clock that advances with the work."""

from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest

from anyserve_worker.core.options import SHORT_PROMPT, ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.prompt_line import PromptLine, size_class
from anyserve_worker.scheduling.scheduler import FIRST_SHARE, Scheduler
from anyserve_worker.scheduling.sequence import NO_SEQ_ID, Sequence
from anyserve_worker.scheduling.step_pace import MIN_STEP_TOKENS, STEP_SECONDS, StepPace
from anyserve_worker.text.output import TextOutput

LONG, SHORT = 7231, 137
TOKEN_S, STEP_S = 0.002, 0.004
"""Seconds for a prompt token, and for a step in addition to its tokens."""
DEEP = 4096
"""Position at which a token costs twice as much as at the start."""
N_CTX = 8192


class AnyMemory:
    """Accepts every call."""

    def usable_prefix(self, seq_id: int, length: int, n: int) -> int:
        return n

    def copy(self, source: int, target: int, n: int) -> None:
        pass

    def truncate(self, seq_id: int, n: int) -> bool:
        return True


_tokens = count(1)


def prompt(length: int, n_new: int = 1, caller: str = "", prefix: Iterable[int] = (), priority: int = 0) -> Sequence:
    """Returns a prompt that shares only `prefix` with others."""
    tokens = array("i", [*prefix, *[next(_tokens)] * length][:length])
    return Sequence(
        0, tokens, length, length + n_new, SamplingParameters(), TextOutput(), caller=caller, priority=priority
    )


def seconds(n_tokens: int) -> float:
    """Returns the seconds for a prompt that is read alone, in steps of the minimum size."""
    return sum(map(_token_s, range(n_tokens))) + STEP_S * -(-n_tokens // MIN_STEP_TOKENS)


def _token_s(position: int) -> float:
    return TOKEN_S * (1 + position / DEEP)


@dataclass
class Simulation:
    """A scheduler with the worker's defaults, on a clock."""

    parallel: int = 32
    n_cells: int = 1 << 18
    mixes: bool = True
    now: float = 0
    arrived: dict[Sequence, float] = field(default_factory=dict)
    first_token: dict[Sequence, float] = field(default_factory=dict)
    finished: dict[Sequence, float] = field(default_factory=dict)
    longest_step: float = 0

    def __post_init__(self) -> None:
        options = ModelOptions(parallel=self.parallel)
        n_slots = self.parallel + options.kept_slots
        self.cache = KVCache(AnyMemory(), self.n_cells, n_slots + options.cached_sequences)
        self.scheduler = Scheduler(
            self.cache,
            self.parallel,
            options.n_batch,
            options.prefill_chunk,
            self.mixes,
            kept_slots=options.kept_slots,
            kept_cells=min(1024, self.n_cells - N_CTX),
        )
        for _ in range(9):
            self.scheduler.pace.record(512, 512 * TOKEN_S)

    def add(self, *sequences: Sequence) -> None:
        for sequence in sequences:
            self.arrived[sequence] = self.now
            self.scheduler.add(sequence)

    def step(self) -> list[Chunk]:
        chunks = self.scheduler.schedule()
        assert chunks, "a scheduler that is not idle must schedule something"
        step_time = STEP_S + sum(_token_s(chunk.start + i) for chunk in chunks for i in range(chunk.count))
        self.now += step_time
        self.longest_step = max(self.longest_step, step_time)
        if any(chunk.count > 1 for chunk in chunks):
            self.scheduler.pace.record(sum(chunk.count for chunk in chunks), step_time)
        sampled = [[0] if chunk.samples else [] for chunk in chunks]
        self.scheduler.commit(chunks, sampled)
        for chunk, tokens in zip(chunks, sampled, strict=True):
            sequence = chunk.sequence
            sequence.tokens.extend(tokens)
            if tokens:
                self.first_token.setdefault(sequence, self.now)
            if len(sequence.tokens) >= sequence.limit:
                self.finished[sequence] = self.now
                self.scheduler.remove(sequence)
        return chunks

    def run(self, until: Callable[[], bool] = lambda: False, feed: Iterator[Sequence] | None = None) -> None:
        """Runs until `until()` or until all finish. A prompt of `feed` arrives when the last one has finished."""
        current = None
        while not until():
            if current is None or current in self.finished:
                current = next(feed, None) if feed else None
                if current is not None:
                    self.add(current)
            if self.scheduler.idle:
                return
            self.step()

    def ttft(self, sequence: Sequence) -> float:
        return self.first_token[sequence] - self.arrived[sequence]


def alone(length: int, mixes: bool = True) -> float:
    """Returns the seconds to the first token of a prompt on an otherwise idle worker."""
    simulation = Simulation(mixes=mixes)
    single = prompt(length)
    simulation.add(single)
    simulation.run()
    return simulation.ttft(single)


# ---- A short prompt and long ones


@pytest.mark.parametrize("mixes", [True, False])
@pytest.mark.parametrize("callers", [1, 16])
@pytest.mark.parametrize("n_long", [1, 4, 16])
@pytest.mark.parametrize("n_steps_before", [1, 20, 100])
def test_a_short_prompt_does_not_wait_for_long_ones(
    n_long: int, n_steps_before: int, callers: int, *, mixes: bool
) -> None:
    s = Simulation(mixes=mixes)
    s.add(*(prompt(LONG, 20, f"caller {i % callers}") for i in range(n_long)))
    for _ in range(n_steps_before):
        s.step()
    s.longest_step = 0
    short = prompt(SHORT, caller="caller 0")
    s.add(short)
    s.run(until=lambda: short in s.finished)
    assert s.ttft(short) <= 3 * alone(SHORT, mixes) + s.longest_step
    assert not any(other in s.finished for other in s.arrived if other is not short), (
        "the long prompts must not have finished"
    )


@pytest.mark.parametrize("mixes", [True, False])
def test_a_short_prompt_does_not_wait_while_others_generate(*, mixes: bool) -> None:
    s = Simulation(mixes=mixes)
    s.add(*(prompt(30, 500) for _ in range(4)))
    s.step()
    s.add(*(prompt(LONG) for _ in range(4)))
    for _ in range(9):
        s.step()
    short = prompt(SHORT)
    s.add(short)
    s.run(until=lambda: short in s.finished)
    assert s.ttft(short) <= 3 * alone(SHORT, mixes) + 9 * s.longest_step * (not mixes) + s.longest_step


def test_a_long_prompt_is_delayed_only_by_the_work_of_short_ones() -> None:
    s = Simulation()
    long, shorts = prompt(LONG), [prompt(SHORT) for _ in range(10)]
    s.add(long)
    s.run(until=lambda: long in s.finished, feed=iter(shorts))
    assert len(s.finished) == 11
    assert s.ttft(long) <= alone(LONG) + 10 * (seconds(SHORT) + STEP_S)


def test_a_step_takes_a_bounded_time_and_as_many_tokens_as_fit() -> None:
    s = Simulation()
    long = prompt(LONG)
    s.add(long)
    counts = []
    while long not in s.finished:
        counts += [chunk.count for chunk in s.step()]
    assert s.longest_step <= 1.2 * STEP_SECONDS
    assert min(counts[:-1]) >= MIN_STEP_TOKENS
    assert s.ttft(long) <= 1.03 * sum(map(_token_s, range(LONG)))


def test_long_prompts_are_read_one_at_a_time() -> None:
    """In parallel, all would hold cells and all would finish late."""
    s = Simulation()
    longs = [prompt(LONG) for _ in range(16)]
    s.add(*longs)
    s.run(until=lambda: longs[1] in s.finished)
    assert len(s.scheduler.running) <= 1
    assert [long for long in longs if long in s.finished] == longs[:2]


# ---- Starvation


@pytest.mark.parametrize("n_callers", [1, 1000])
@pytest.mark.parametrize("length", [SHORT, SHORT_PROMPT])
@pytest.mark.parametrize("crowd", [1, 40])
def test_an_endless_stream_of_short_prompts_does_not_starve_a_long_one(crowd: int, length: int, n_callers: int) -> None:
    """`crowd` short prompts wait at any time."""
    s = Simulation()
    number = count()
    long = prompt(LONG, caller="long")
    s.add(long)
    shorts: list[Sequence] = []
    while long not in s.finished:
        shorts = [short for short in shorts if short not in s.finished]
        while len(shorts) < crowd:
            shorts.append(prompt(length, 1, f"caller {next(number) % n_callers}"))
            s.add(shorts[-1])
        s.step()
    assert s.ttft(long) <= (FIRST_SHARE + 1) * alone(LONG)


def test_long_prompts_finish_in_order_under_an_endless_stream() -> None:
    s = Simulation()
    longs = [prompt(LONG) for _ in range(3)]
    s.add(*longs)
    s.run(until=lambda: longs[2] in s.finished, feed=(prompt(SHORT_PROMPT) for _ in count()))
    assert [long for long in s.finished if long in longs] == longs
    for k, long in enumerate(longs, 1):
        assert s.ttft(long) <= k * (FIRST_SHARE + 1) * alone(LONG)


# ---- Between callers


@pytest.mark.parametrize("length", [SHORT, 500, 2000])
@pytest.mark.parametrize("parallel", [2, 32])
def test_a_caller_with_one_prompt_does_not_wait_for_fifty_of_another(length: int, parallel: int) -> None:
    s = Simulation(parallel=parallel)
    s.add(*(prompt(length, 1, "many") for _ in range(50)))
    s.step()
    single = prompt(length, 1, "one")
    s.add(single)
    s.run(until=lambda: single in s.finished)
    assert sum(item in s.finished for item in s.arrived) <= 1 + 2 + STEP_SECONDS / TOKEN_S // length
    assert s.ttft(single) <= 2 * alone(length) + 2 * s.longest_step


def test_callers_take_turns_in_any_order_of_arrival() -> None:
    s = Simulation(parallel=2)
    for caller in "abc":
        s.add(*(prompt(1000, 1, caller) for _ in range(4)))
    s.run()
    order = [sequence.caller for sequence in s.finished]
    for k in range(0, 12, 3):
        assert sorted(order[k : k + 3]) == ["a", "b", "c"]


def test_callers_take_turns_for_cells() -> None:
    s = Simulation(n_cells=N_CTX + 1024)
    s.add(*(prompt(LONG, 50, "many") for _ in range(5)))
    s.step()
    single = prompt(LONG, 50, "one")
    s.add(single)
    s.run(until=lambda: single in s.finished)
    assert len(s.finished) == 2


# ---- Slots and cells reserved for short prompts


@pytest.mark.parametrize("parallel", [2, 16])
def test_a_slot_is_reserved_for_short_prompts(parallel: int) -> None:
    s = Simulation(parallel=parallel)
    s.add(*(prompt(600, 1000) for _ in range(2 * parallel)))
    s.run(until=lambda: len(s.first_token) == parallel)
    for _ in range(9):
        s.step()
    short = prompt(SHORT, 9)
    s.add(short)
    s.run(until=lambda: short in s.finished)
    assert len(s.finished) == 1
    assert s.ttft(short) <= 3 * alone(SHORT) + s.longest_step


def test_cells_are_reserved_for_short_prompts() -> None:
    """The worker's default cells: one full context and a reserve."""
    s = Simulation(parallel=16, n_cells=ModelOptions().n_cells(N_CTX))
    longs = [prompt(N_CTX - 100, 100) for _ in range(4)]
    s.add(*longs)
    for n_steps_before in (3, 100, 250):
        for _ in range(n_steps_before):
            s.step()
        short = prompt(SHORT, 20)
        s.add(short)
        n_finished = len(s.finished)
        s.run(until=lambda prompt_=short: prompt_ in s.finished)  # type: ignore[misc]
        assert len(s.finished) <= n_finished + 2
        assert s.ttft(short) <= 3 * alone(SHORT) + s.longest_step
    s.run()
    assert [long for long in s.finished if long in longs] == longs
    assert s.scheduler.n_preempted == 0


def test_reserved_cells_are_shared_by_as_many_short_prompts_as_fit() -> None:
    s = Simulation(parallel=16, n_cells=N_CTX + 1024)
    s.add(prompt(N_CTX - 100, 100), prompt(LONG))
    for _ in range(5):
        s.step()
    shorts = [prompt(100, 300) for _ in range(8)]
    s.add(*shorts)
    s.run(until=lambda: all(short in s.first_token for short in shorts[:6]))
    assert sum(short in s.scheduler.running for short in shorts) >= 6
    assert not s.finished
    s.run()
    assert len(s.finished) == 10


@pytest.mark.parametrize("n_cells", [N_CTX, N_CTX + 256, N_CTX + 1024, 2 * N_CTX])
@pytest.mark.parametrize("n_new", [1, 200, 700])
def test_short_prompts_do_not_starve_a_long_one_of_cells(n_cells: int, n_new: int) -> None:
    """Under an endless stream of short prompts, the long ones finish in order with all their tokens."""
    s = Simulation(parallel=4, n_cells=n_cells)
    longs = [prompt(LONG, 300) for _ in range(4)]
    s.add(*longs)
    s.run(until=lambda: longs[-1] in s.finished, feed=(prompt(SHORT, n_new) for _ in count()))
    assert [long for long in s.finished if long in longs] == longs
    assert s.finished[longs[-1]] <= 4 * ((FIRST_SHARE + 1) * alone(LONG) + 700 * (STEP_S + MIN_STEP_TOKENS * TOKEN_S))
    s.run()
    assert s.cache.n_free_cells + _cached_cells(s.cache) == n_cells


def _cached_cells(cache: KVCache) -> int:
    free = cache.n_free_cells
    cache.evict_all()
    return cache.n_free_cells - free


@pytest.mark.parametrize("parallel", [2, 3, 16])
def test_reserved_slots_never_run_long_prompts(parallel: int) -> None:
    s = Simulation(parallel=parallel)
    n_reserved = s.scheduler.kept_slots
    assert n_reserved == max(1, parallel // 8)
    s.add(*(prompt(600, 40) for _ in range(3 * parallel)), *(prompt(40, 100) for _ in range(3 * parallel)))
    max_seen = 0
    while not s.scheduler.idle:
        s.step()
        n_long = sum(sequence.n_prompt > SHORT_PROMPT for sequence in s.scheduler.running)
        assert n_long <= parallel
        assert len(s.scheduler.running) <= parallel + (min(n_reserved, n_long))
        max_seen = max(max_seen, len(s.scheduler.running))
    assert max_seen >= parallel


def test_without_parallelism_prompts_run_one_at_a_time_in_whole_batches() -> None:
    """With --parallel 1, an answer depends neither on other requests nor on the speed of earlier steps."""
    s = Simulation(parallel=1)
    s.add(prompt(1500), prompt(SHORT))
    assert [[chunk.count for chunk in s.step()] for _ in range(4)] == [[512], [512], [476], [SHORT]]


@pytest.mark.parametrize(
    ("options", "kept_slots", "n_cells"),
    [
        (ModelOptions(), 2, N_CTX + 1024),
        (ModelOptions(parallel=2), 1, N_CTX + 1024),
        (ModelOptions(parallel=1), 0, N_CTX),
        (ModelOptions(parallel=8, n_batch=8), 0, N_CTX),
        (ModelOptions(parallel=256), 32, N_CTX + 1024),
        (ModelOptions(kv_cells=N_CTX), 2, N_CTX),
        (ModelOptions(kv_cells=9000), 2, 9000),
    ],
)
def test_options_set_the_reserved_slots_and_cells(options: ModelOptions, kept_slots: int, n_cells: int) -> None:
    assert (options.kept_slots, options.n_cells(N_CTX)) == (kept_slots, n_cells)


@pytest.mark.parametrize(("n_ctx", "n_cells"), [(256, 256), (512, 512), (1024, 1280), (2048, 2560), (32768, 33792)])
def test_the_default_number_of_cells_follows_the_context(n_ctx: int, n_cells: int) -> None:
    assert ModelOptions().n_cells(n_ctx) == n_cells


# ---- Prefixes


def test_a_short_prompt_does_not_wait_for_a_long_one_with_the_same_prefix() -> None:
    s = Simulation()
    shared = [-1] * 100
    other, long = prompt(LONG), prompt(LONG, prefix=shared)
    s.add(other, long)
    s.step()
    short = prompt(SHORT, prefix=shared)
    s.add(short)
    s.run(until=lambda: short in s.finished)
    assert s.ttft(short) <= 3 * alone(SHORT) + s.longest_step
    s.run()
    assert long in s.finished


def test_prompts_that_wait_for_a_prefix_speed_up_its_producer_only_to_the_prefix() -> None:
    s = Simulation()
    shared = [-1] * 60
    long = prompt(LONG, prefix=shared)
    s.add(long)
    s.scheduler.pace.record(10, 1e6)
    assert [chunk.count for chunk in s.scheduler.schedule()] == [MIN_STEP_TOKENS]
    s.add(*(prompt(SHORT, prefix=shared) for _ in range(20)), other := prompt(SHORT))
    counts = {chunk.sequence: chunk.count for chunk in s.scheduler.schedule()}
    assert counts == {long: 60, other: 4}


def test_choices_of_a_long_prompt_are_long_too() -> None:
    s = Simulation()
    tokens = prompt(LONG)
    choices = [prompt(LONG, prefix=tokens.tokens) for _ in range(8)]
    s.add(prompt(LONG), *choices)
    s.step()
    short = prompt(SHORT)
    s.add(short)
    s.run(until=lambda: short in s.finished)
    assert s.ttft(short) <= 3 * alone(SHORT) + s.longest_step
    s.run()
    assert [choice.n_cached for choice in choices] == [0] + [LONG - 1] * 7


def test_a_long_prompt_with_a_cached_prefix_counts_as_short() -> None:
    s = Simulation()
    before = prompt(LONG)
    s.add(before)
    s.run()
    s.add(*(prompt(LONG) for _ in range(4)))
    for _ in range(5):
        s.step()
    again = prompt(LONG + SHORT, prefix=before.tokens)
    s.add(again)
    s.run(until=lambda: again in s.finished)
    assert again.n_cached == LONG
    assert s.ttft(again) <= 3 * (3 * alone(SHORT)) + s.longest_step  # tokens at high positions are slower


# ---- PromptLine


def test_prompts_are_classed_by_length() -> None:
    assert [size_class(n) for n in (1, 512, 513, 2048, 2049, 8192, 8193)] == [0, 0, 1, 1, 2, 2, 3]


def test_a_line_is_ordered_by_size_and_by_turn() -> None:
    line: PromptLine[Sequence] = PromptLine()
    a = [prompt(n, caller="a") for n in (900, 300, 100)]
    b = [prompt(n, caller="b") for n in (200, 7000)]
    for item in (*a, *b):
        line.add(item, len(item.tokens))
    assert list(line) == [*a, *b]
    assert line.by_size(9) == [a[2], b[0], a[1], a[0], b[1]]
    assert line.by_size(2) == [a[2], b[0]]
    assert line.first() is a[0]
    line.start(a[2], len(a[2].tokens))
    assert line.by_size(2) == [b[0], a[1]]
    assert (a[2] in line, len(line)) == (True, 4)
    line.leave(a[0])
    assert line.first() is b[0], "it is the next caller's turn"
    line.leave(b[0])
    assert line.first() is a[1]
    line.leave(a[1])
    line.leave(a[2])
    assert line.first() is b[1]
    line.start(b[1], len(b[1].tokens))
    assert len(line) == 0
    assert line.first() is b[1], "a prompt stays first until it leaves"
    line.leave(b[1])
    assert line.first() is None


def test_a_line_is_ordered_by_priority_before_size() -> None:
    line: PromptLine[Sequence] = PromptLine()
    last, later = prompt(100, priority=7), prompt(200, caller="b", priority=1)
    long, short = prompt(7000), prompt(300)
    for item in (last, later, long, short):
        line.add(item, len(item.tokens))
    assert line.by_size(9) == [short, long, later, last]
    assert line.first() is last, "turns go by arrival, not by priority"
    for item in (last, later, long, short):
        line.start(item, len(item.tokens))
        line.leave(item)
    assert line.by_size(9) == []


def test_priorities_are_forgotten_with_their_prompts() -> None:
    line: PromptLine[Sequence] = PromptLine()
    n_before = len(line._ranks)
    for number in range(1, 1000):
        item = prompt(10, priority=number)
        line.add(item, 10)
        line.leave(item)
    assert len(line._ranks) == n_before


@pytest.mark.parametrize("parallel", [2, 32])
def test_a_prompt_overtakes_those_of_lower_priority(parallel: int) -> None:
    """It takes at most 10 % longer than it would beside the first in line, which gets a quarter of every step."""
    s = Simulation(parallel)
    background = [prompt(400, caller="batch", priority=1) for _ in range(200)]
    s.add(*background)
    s.step()
    chat = prompt(LONG)
    s.add(chat)
    s.run(lambda: chat in s.first_token)
    assert (
        s.first_token[chat] - s.arrived[chat] < 1.1 * seconds(LONG) * FIRST_SHARE / (FIRST_SHARE - 1) + s.longest_step
    )
    s.run()
    assert set(background) <= set(s.finished), "the background must finish too"


def test_a_prompt_of_low_priority_gets_its_turn() -> None:
    """Under an endless stream of others."""
    s = Simulation(parallel=4)
    background = prompt(2000, caller="batch", priority=9)
    s.add(prompt(400), background)
    s.run(lambda: background in s.first_token, feed=(prompt(400) for _ in count()))
    assert s.first_token[background] - s.arrived[background] < 2 * FIRST_SHARE * seconds(2000)


def test_a_preempted_prompt_goes_to_the_head_of_the_line() -> None:
    line: PromptLine[Sequence] = PromptLine()
    waiting, first, second = prompt(10), prompt(600), prompt(700)
    for item in (waiting, first, second):
        line.add(item, len(item.tokens))
    for item in (first, second):
        line.start(item, len(item.tokens))
        line.leave(item)
    line.put_back(second, 700)
    line.put_back(first, 600)
    assert list(line) == [first, second, waiting]
    assert line.by_size(9) == [first, second, waiting]
    assert line.first() is first
    line.leave(first)
    assert line.first() is second
    line.start(second, len(second.tokens))
    assert line.first() is waiting
    assert second in line, "it stays in line until it is computed again"


# ---- StepPace


def test_a_pace_without_measurements_sets_no_bound() -> None:
    assert StepPace().bound(512) == 512


@pytest.mark.parametrize(
    ("token_s", "bound"), [(1e-5, 512), (STEP_SECONDS / 200, 200), (STEP_SECONDS / 10, MIN_STEP_TOKENS)]
)
def test_a_step_gets_as_many_tokens_as_fit_into_its_time(token_s: float, bound: int) -> None:
    pace = StepPace()
    pace.record(512, 512 * STEP_SECONDS)  # an old measurement
    for _ in range(60):
        n = pace.bound(512)
        pace.record(n, n * token_s)
    assert abs(pace.bound(512) - bound) <= 1
    assert pace.bound(5) == 5


def test_a_prompt_whose_prefix_was_evicted_counts_as_long_again() -> None:
    s = Simulation(parallel=2)
    before = prompt(LONG)
    s.add(before)
    s.run()
    again = prompt(LONG, prefix=before.tokens)
    s.add(again)
    assert s.scheduler.waiting.rank(again) == (0, 0)
    s.cache.evict_all()
    s.step()
    assert s.scheduler.waiting.rank(again) == (0, 2)
    s.run()


def test_a_waiting_sequence_holds_no_id_and_no_cells() -> None:
    s = Simulation(parallel=1)
    running, other = prompt(600), prompt(600)
    s.add(running, other)
    s.step()
    assert (other.seq_id, other.n_computed) == (NO_SEQ_ID, 0)
