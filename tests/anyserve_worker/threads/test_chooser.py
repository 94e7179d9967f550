"""The choice of threads on a simulated machine, whose step times depend on the number of threads and change."""

from collections.abc import Callable
from random import Random

import pytest

from anyserve_worker.threads.chooser import ThreadChooser, ladder

Cost = Callable[[int, float], float]
"""(threads, time) → seconds of a step."""


class Machine:
    """Runs steps one after the other on its own clock."""

    def __init__(self, cost: Cost, max_threads: int = 2, idle: Callable[[], float | None] = lambda: None) -> None:
        self.cost = cost
        self.share = 1.0
        """Share of a processor that the engine's thread gets, 0 to 1."""
        self.now = 100.0
        self.used: list[tuple[float, int, float]] = []
        self.chooser = ThreadChooser(ladder(max_threads), ladder(max_threads), idle)

    def run(self, seconds: float, n_tokens: int = 8, *, prompts: bool = False) -> None:
        end = self.now + seconds
        while self.now < end:
            threads = self.chooser.choose(n_tokens, prompts=prompts, now=self.now)
            step_time = self.cost(threads, self.now)
            self.used.append((self.now, threads, step_time))
            self.now += step_time
            self.chooser.record(step_time, self.now, self.share * step_time)

    def rate(self, last: float) -> float:
        """Returns the steps a second over the `last` seconds."""
        return sum(at >= self.now - last for at, _, _ in self.used) / last


def constant(*seconds: float) -> Cost:
    """Returns a cost of `seconds` with 1, 2, … threads."""
    return lambda threads, _: seconds[threads - 1]


def test_a_ladder_has_the_counts_worth_trying() -> None:
    assert ladder(1) == (1,)
    assert ladder(2) == (1, 2)
    assert ladder(8) == (1, 2, 4, 7, 8)
    assert ladder(12) == (1, 2, 3, 6, 11, 12)


@pytest.mark.parametrize("costs", [(0.010, 0.006), (0.007, 0.030), (0.010, 0.009), (0.090, 0.050), (0.09, 0.2)])
def test_steady_conditions_run_within_ten_percent_of_the_best_fixed_count(costs: tuple[float, ...]) -> None:
    machine = Machine(constant(*costs))
    machine.run(20)
    assert machine.rate(last=15) > 0.9 / min(costs)


def test_a_single_choice_is_always_used() -> None:
    machine = Machine(constant(0.01), max_threads=1)
    machine.run(2)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_fixed_counts_apply_to_their_kind_of_step() -> None:
    chooser = ThreadChooser.of(3, 5, 8, lambda: None)
    assert chooser.choose(4, prompts=False, now=0) == 3
    assert chooser.choose(4, prompts=True, now=0) == 5
    assert ThreadChooser.of(3, 0, 8, lambda: None).choose(4, prompts=True, now=0) == 3
    assert ThreadChooser.of(0, 0, 8, lambda: None).choose(4, prompts=True, now=0) == 8


QUIET, HOG = constant(0.012, 0.007), constant(0.012, 0.030)


@pytest.mark.parametrize("n_tokens", [1, 8, 16])
def test_a_neighbour_that_comes_and_goes_is_noticed_within_a_second(n_tokens: int) -> None:
    machine = Machine(QUIET)
    machine.run(5, n_tokens)
    machine.cost = HOG
    machine.run(1, n_tokens)
    machine.run(4, n_tokens)
    assert machine.rate(last=4) > 0.9 / 0.012
    machine.cost = QUIET
    machine.run(1, n_tokens)
    machine.run(4, n_tokens)
    assert machine.rate(last=4) > 0.9 / 0.007


def test_a_change_measured_for_one_shape_applies_to_all() -> None:
    machine = Machine(QUIET)
    for _ in range(20):
        machine.run(0.2, 1)
        machine.run(0.2, 16)
    machine.cost = HOG
    machine.run(1, 1)
    machine.run(1, 16)
    assert [threads for _, threads, _ in machine.used[-20:]].count(1) > 15


def test_a_lost_processor_is_noticed_for_all_shapes() -> None:
    """Steps with prompts are rare, and slow with one thread too many."""
    machine = Machine(QUIET, idle=lambda: 0.0)
    for _ in range(20):
        machine.run(0.2, 8)
        machine.run(0.1, 100, prompts=True)
    machine.cost = constant(0.012, 0.060)
    machine.run(1, 8)
    machine.used.clear()
    machine.run(0.1, 100, prompts=True)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_two_slow_steps_with_a_waiting_thread_lower_the_count() -> None:
    """They may be of different shapes. Four steps that take ten times as long would be too many."""
    machine = Machine(QUIET, idle=lambda: 0.0)
    for _ in range(10):
        machine.run(0.2, 8)
        machine.run(0.1, 100, prompts=True)
    machine.cost, machine.share = constant(0.012, 0.070), 0.5
    machine.used.clear()
    machine.run(0.01, 100, prompts=True)
    machine.run(0.3, 8)
    assert [threads for _, threads, _ in machine.used[:3]] == [2, 2, 1]
    assert {threads for _, threads, _ in machine.used[2:]} == {1}


def test_single_slow_steps_do_not_lower_the_count() -> None:
    machine = Machine(QUIET, idle=lambda: 0.0)
    machine.run(0.5)
    machine.used.clear()
    for _ in range(4):
        machine.cost, machine.share = constant(0.012, 0.070), 0.5
        machine.run(0.001)
        machine.cost, machine.share = QUIET, 1.0
        machine.run(0.3)
    assert {threads for _, threads, _ in machine.used} == {2}


def test_a_slow_step_that_was_forgotten_does_not_lower_the_count() -> None:
    """The step after the pause isn't recorded, as where the KV cache has no room: the shape has no steps then."""
    machine = Machine(QUIET, idle=lambda: 0.0)
    machine.run(0.5, 8)
    machine.run(0.5, 100, prompts=True)
    machine.cost, machine.share = constant(0.012, 0.070), 0.5
    machine.run(0.01, 8)
    machine.now += 10
    machine.chooser.choose(8, prompts=False, now=machine.now)
    machine.run(0.01, 100, prompts=True)
    machine.used.clear()
    machine.run(0.01, 8)
    assert [threads for _, threads, _ in machine.used] == [2]


def test_a_shape_follows_the_choice_of_another_one() -> None:
    machine = Machine(constant(0.012, 0.014), idle=lambda: 0.0)
    machine.run(1, 1)
    machine.run(3, 8)  # goes down
    machine.used.clear()
    machine.run(1, 8)
    machine.run(1, 1)
    assert machine.chooser.chosen == [(False, 1, 1), (False, 8, 1)]
    assert {threads for _, threads, _ in machine.used[20:80]} == {1}


def test_old_measurements_are_not_compared() -> None:
    """Later two threads are faster than one, but slower than one was before."""
    machine = Machine(constant(0.006, 0.010), idle=lambda: 0.0)
    machine.run(4, 8)
    assert machine.chooser.chosen == [(False, 8, 1)]
    machine.now += 10
    machine.cost, machine.share = constant(0.024, 0.014), 0.5
    machine.run(2.5, 8)
    assert machine.chooser.chosen == [(False, 8, 2)]


def test_a_trial_is_given_up_after_a_pause() -> None:
    machine = Machine(constant(0.012, 0.011), idle=lambda: 0.0)
    machine.run(2.05)
    assert machine.used[-1][1] == 1
    machine.now += 10
    machine.used.clear()
    machine.run(0.1)
    assert [threads for _, threads, _ in machine.used[:4]] == [2] * 4


@pytest.mark.parametrize("slow_s", [0.1, 0.3])
def test_a_trial_waits_until_threads_run_on_different_processors(slow_s: float) -> None:
    """On busy processors, a second thread starts on the first one's, until the system moves it."""
    machine = Machine(constant(0.024, 0.014), idle=lambda: 0.0)
    machine.run(1)
    machine.chooser = ThreadChooser(ladder(2), ladder(2), lambda: 0.0)
    machine.cost, machine.share = HOG, 0.95
    machine.run(4)
    since = machine.now

    def moved(threads: int, now: float) -> float:
        nonlocal since
        if threads == 1:
            since = now
            return 0.024
        return 0.130 if now - since < slow_s else 0.014

    machine.cost, machine.share = moved, 0.5
    machine.run(1.5)
    assert machine.chooser.chosen == [(False, 8, 2)]


def test_a_quota_that_throttles_at_the_end_of_its_period_is_measured() -> None:
    """1.5 processors stop two threads for a quarter of each 0.1 s, which short trials would miss."""

    def throttled(threads: int, now: float) -> float:
        if threads == 1:
            return 0.007
        into = now % 0.1
        return 0.005 if into < 0.07 else 0.1 - into + 0.005

    machine = Machine(throttled)
    machine.run(20)
    best = max(rate_of(throttled, threads) for threads in (1, 2))
    assert machine.rate(last=15) > 0.9 * best


def rate_of(cost: Cost, threads: int) -> float:
    now, steps = 0.0, 0
    while now < 10:
        now += cost(threads, now)
        steps += 1
    return steps / now


def test_more_threads_are_not_tried_without_idle_processors() -> None:
    machine = Machine(HOG, idle=lambda: 0.05)
    machine.run(5)
    machine.used.clear()
    machine.run(20)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_more_threads_are_used_if_they_are_faster_on_busy_processors() -> None:
    machine = Machine(HOG, idle=lambda: 0.0)
    machine.run(5)
    machine.cost, machine.share = constant(0.024, 0.014), 0.5
    machine.run(4)
    machine.run(10)
    assert machine.rate(last=10) > 0.95 / 0.014


@pytest.mark.parametrize("n_tokens", [1, 8])
def test_a_second_neighbour_is_noticed_within_1_5_seconds(n_tokens: int) -> None:
    machine = Machine(QUIET, idle=lambda: 0.0)
    machine.run(3, n_tokens)
    machine.cost, machine.share = HOG, 0.95
    machine.run(6, n_tokens)

    def two_neighbours(threads: int, _: float) -> float:
        """The second thread is slow in its first step."""
        is_first = machine.used[-1][1] == 1
        return 0.024 if threads == 1 else 0.080 if is_first else 0.014

    machine.cost, machine.share = two_neighbours, 0.5
    machine.run(1.5, n_tokens)
    machine.run(4, n_tokens)
    assert machine.rate(last=4) > 0.9 / 0.014


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("with_one", "with_two"), [(0.018, 0.014), (0.012, 0.016)])
def test_noisy_steps_are_compared_for_long_enough(with_one: float, with_two: float, seed: int) -> None:
    """A neighbour takes the processor at random for slices of 4 ms."""
    random = Random(seed)

    def shared(threads: int, _: float) -> float:
        mean = (with_one, with_two)[threads - 1]
        slices = sum(random.random() < 0.25 for _ in range(6))
        return mean - 0.006 + 0.004 * slices

    machine = Machine(shared, idle=lambda: 0.0)
    machine.share = 0.5
    machine.run(60)
    assert machine.rate(last=50) > 0.95 / min(with_one, with_two)


def test_the_count_moves_down_and_up_over_many_cores() -> None:
    def crowded(threads: int, _: float) -> float:
        return 0.05 / threads if threads <= 4 else 0.05

    machine = Machine(crowded, max_threads=16)
    machine.run(60)
    assert machine.chooser.chosen == [(False, 8, 4)]
    machine.cost = lambda threads, _: 0.05 / threads
    machine.run(10)
    assert machine.chooser.chosen == [(False, 8, 16)]


def test_steps_that_slow_down_gradually_do_not_lower_the_count() -> None:
    machine = Machine(lambda threads, now: (0.010 if threads == 1 else 0.006) * (1 + (now - 100) / 20))
    machine.run(20)
    slow = sum(threads == 1 for _, threads, _ in machine.used)
    assert slow < 0.03 * len(machine.used)
