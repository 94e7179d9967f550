"""The choice of threads on a simulated machine, where the cost of a step depends on the threads and the time."""

from collections.abc import Callable
from random import Random

import pytest

from anyserve_worker.threads.chooser import ThreadChooser, ladder

Cost = Callable[[int, float], float]
"""(threads, time) → seconds of a step."""


class Machine:
    """Runs steps of `n_tokens` one after the other, on its own clock."""

    def __init__(self, cost: Cost, most: int = 2, idle: Callable[[], float | None] = lambda: None) -> None:
        self.cost = cost
        self.share = 1.0
        """Share of a processor that the engine's thread gets."""
        self.now = 100.0
        self.used: list[tuple[float, int, float]] = []
        self.chooser = ThreadChooser(ladder(most), ladder(most), idle)

    def run(self, seconds: float, n_tokens: int = 8, *, prompts: bool = False) -> None:
        end = self.now + seconds
        while self.now < end:
            threads = self.chooser.choose(n_tokens, prompts=prompts, now=self.now)
            took = self.cost(threads, self.now)
            self.used.append((self.now, threads, took))
            self.now += took
            self.chooser.record(took, self.now, self.share * took)

    def rate(self, last: float) -> float:
        """Returns steps per second over the `last` seconds."""
        return sum(at >= self.now - last for at, _, _ in self.used) / last


def constant(*seconds: float) -> Cost:
    """Returns a cost of these seconds with 1, 2, … threads."""
    return lambda threads, _: seconds[threads - 1]


def test_ladder() -> None:
    assert ladder(1) == (1,)
    assert ladder(2) == (1, 2)
    assert ladder(8) == (1, 2, 4, 7, 8)
    assert ladder(12) == (1, 2, 3, 6, 11, 12)


@pytest.mark.parametrize("costs", [(0.010, 0.006), (0.007, 0.030), (0.010, 0.009), (0.090, 0.050), (0.09, 0.2)])
def test_steady_conditions_run_within_ten_percent_of_the_best_fixed_count(costs: tuple[float, ...]) -> None:
    machine = Machine(constant(*costs))
    machine.run(20)
    assert machine.rate(last=15) > 0.9 / min(costs)


def test_one_choice_is_fixed() -> None:
    machine = Machine(constant(0.01), most=1)
    machine.run(2)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_fixed_counts_by_kind_of_step() -> None:
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


def test_all_shapes_learn_from_one() -> None:
    machine = Machine(QUIET)
    for _ in range(20):
        machine.run(0.2, 1)
        machine.run(0.2, 16)
    machine.cost = HOG
    machine.run(1, 1)
    machine.run(1, 16)
    assert [threads for _, threads, _ in machine.used[-20:]].count(1) > 15


def test_a_processor_that_was_taken_away_is_so_for_all_shapes() -> None:
    """Prompts are rare, and each of their steps takes long with a thread too many."""
    machine = Machine(QUIET, idle=lambda: 0.0)
    for _ in range(20):
        machine.run(0.2, 8)
        machine.run(0.1, 100, prompts=True)
    machine.cost = constant(0.012, 0.060)
    machine.run(1, 8)
    machine.used.clear()
    machine.run(0.1, 100, prompts=True)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_two_slow_steps_in_which_the_thread_is_kept_waiting_are_enough() -> None:
    """This holds across shapes: the engine does not wait for four steps that take ten times as long."""
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


def test_a_single_slow_step_shows_no_neighbour() -> None:
    machine = Machine(QUIET, idle=lambda: 0.0)
    machine.run(0.5)
    machine.used.clear()
    for _ in range(4):
        machine.cost, machine.share = constant(0.012, 0.070), 0.5
        machine.run(0.001)
        machine.cost, machine.share = QUIET, 1.0
        machine.run(0.3)
    assert {threads for _, threads, _ in machine.used} == {2}


def test_an_alarming_step_that_was_forgotten_raises_no_alarm() -> None:
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


def test_shapes_go_where_another_one_has_gone_and_not_the_other_way() -> None:
    machine = Machine(constant(0.012, 0.014), idle=lambda: 0.0)
    machine.run(1, 1)
    machine.run(3, 8)  # goes down
    machine.used.clear()
    machine.run(1, 8)
    machine.run(1, 1)
    assert machine.chooser.chosen == [(False, 1, 1), (False, 8, 1)]
    assert {threads for _, threads, _ in machine.used[20:80]} == {1}


def test_steps_of_long_ago_are_not_compared() -> None:
    """First without neighbours, then with two: two threads cost less than one, but more than one did before."""
    machine = Machine(constant(0.006, 0.010), idle=lambda: 0.0)
    machine.run(4, 8)
    assert machine.chooser.chosen == [(False, 8, 1)]
    machine.now += 10
    machine.cost, machine.share = constant(0.024, 0.014), 0.5
    machine.run(2.5, 8)
    assert machine.chooser.chosen == [(False, 8, 2)]


def test_a_shape_may_pause_in_the_midst_of_a_trial() -> None:
    machine = Machine(constant(0.012, 0.011), idle=lambda: 0.0)
    machine.run(2.05)
    assert machine.used[-1][1] == 1
    machine.now += 10
    machine.used.clear()
    machine.run(0.1)
    assert [threads for _, threads, _ in machine.used[:4]] == [2] * 4


@pytest.mark.parametrize("slow_s", [0.1, 0.3])
def test_threads_that_are_not_apart_yet_are_waited_for(slow_s: float) -> None:
    """If all processors are busy, a second thread starts on the first one's processor until the system moves it."""
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


def test_a_quota_that_is_felt_at_the_end_of_its_period() -> None:
    """1.5 processors: two threads are paused for a quarter of each 0.1 s, which short trials would miss."""

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


def test_more_threads_are_not_tried_where_nothing_is_idle_but_our_own_processor() -> None:
    machine = Machine(HOG, idle=lambda: 0.05)
    machine.run(5)
    machine.used.clear()
    machine.run(20)
    assert {threads for _, threads, _ in machine.used} == {1}


def test_where_all_processors_are_busy_more_threads_get_more_of_them() -> None:
    machine = Machine(HOG, idle=lambda: 0.0)
    machine.run(5)
    machine.cost, machine.share = constant(0.024, 0.014), 0.5
    machine.run(4)
    machine.run(10)
    assert machine.rate(last=10) > 0.95 / 0.014


@pytest.mark.parametrize("n_tokens", [1, 8])
def test_a_second_neighbour_is_noticed_soon(n_tokens: int) -> None:
    machine = Machine(QUIET, idle=lambda: 0.0)
    machine.run(3, n_tokens)
    machine.cost, machine.share = HOG, 0.95
    machine.run(6, n_tokens)

    def two_neighbours(threads: int, _: float) -> float:
        """The first step after a change is slow for the second thread."""
        began = machine.used[-1][1] == 1
        return 0.024 if threads == 1 else 0.080 if began else 0.014

    machine.cost, machine.share = two_neighbours, 0.5
    machine.run(1.5, n_tokens)
    machine.run(4, n_tokens)
    assert machine.rate(last=4) > 0.9 / 0.014


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("one", "two"), [(0.018, 0.014), (0.012, 0.016)])
def test_steps_that_vary_by_chance_are_compared_for_long_enough(one: float, two: float, seed: int) -> None:
    """Sometimes a neighbour has the processor for its slice of 4 ms."""
    random = Random(seed)

    def shared(threads: int, _: float) -> float:
        mean = (one, two)[threads - 1]
        slices = sum(random.random() < 0.25 for _ in range(6))
        return mean - 0.006 + 0.004 * slices

    machine = Machine(shared, idle=lambda: 0.0)
    machine.share = 0.5
    machine.run(60)
    assert machine.rate(last=50) > 0.95 / min(one, two)


def test_many_cores_are_climbed_down_and_up() -> None:
    def crowded(threads: int, _: float) -> float:
        return 0.05 / threads if threads <= 4 else 0.05

    machine = Machine(crowded, most=16)
    machine.run(60)
    assert machine.chooser.chosen == [(False, 8, 4)]
    machine.cost = lambda threads, _: 0.05 / threads
    machine.run(10)
    assert machine.chooser.chosen == [(False, 8, 16)]


def test_a_growing_context_is_no_neighbour() -> None:
    machine = Machine(lambda threads, now: (0.010 if threads == 1 else 0.006) * (1 + (now - 100) / 20))
    machine.run(20)
    slow = sum(threads == 1 for _, threads, _ in machine.used)
    assert slow < 0.03 * len(machine.used)
