"""The phases of a batch shape: each transition by what causes it, and when a trial is decided."""

import pytest

from anyserve_worker.threads.phase import TRANSITIONS, Direction, Event, Phase
from anyserve_worker.threads.shape import (
    BLIND_WASTE_SECONDS,
    CLEAR_WIN_STEPS,
    LASTING_SECONDS,
    LONG_TRIAL_SECONDS,
    SETTLE_SECONDS,
    Crowding,
    Shape,
)
from anyserve_worker.threads.step_times import MIN_STEPS

STEP_SECONDS = 0.010
NOW = 100.0


def shape_in(phase: Phase = Phase.USUAL) -> Shape:
    """A shape of two counts with two threads in use, whose steps of one token take STEP_SECONDS."""
    shape = Shape((1, 2), 1, next_up=NOW, next_blind_up=NOW, next_down=NOW)
    for _ in range(MIN_STEPS):
        shape.recent.add(1, STEP_SECONDS, STEP_SECONDS)
    if phase.is_blind:
        shape.rung = 0
    if phase in (Phase.ALARMED, Phase.ALARMED_TRIAL):
        shape.advance(Event.ALARM)
    if phase.is_trial:
        shape.begin_trial(1 - shape.rung, NOW, blind=phase.is_blind)
    if phase is Phase.BLIND_TRIAL:
        shape.settle(1, STEP_SECONDS, NOW)
    assert shape.phase is phase
    return shape


def verdict_after(shape: Shape, *factors: float) -> bool | None:
    """The verdict after trial steps that take these times as long as the recent ones."""
    for factor in factors:
        shape.trial.add(1, factor * STEP_SECONDS, STEP_SECONDS)
    return shape.verdict()


def test_every_phase_can_be_reached_and_left() -> None:
    assert {phase for phase, event in TRANSITIONS if event is not Event.FORGET} == set(Phase)
    assert set(TRANSITIONS.values()) == set(Phase)


@pytest.mark.parametrize("phase", Phase)
def test_a_shape_that_forgets_is_back_in_its_usual_phase(phase: Phase) -> None:
    shape = shape_in(phase)
    shape.forget()
    assert (shape.phase, shape.recent.known) == (Phase.USUAL, False)


@pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.ALARMED_TRIAL, Phase.BLIND_TRIAL])
@pytest.mark.parametrize("won", [False, True])
def test_a_decided_trial_sets_the_count_in_use(phase: Phase, won: bool) -> None:
    shape = shape_in(phase)
    before = shape.rung
    verdict_after(shape, 0.5)
    shape.end_trial(won=won)
    assert shape.phase is Phase.USUAL
    assert shape.rung == (shape.trial_rung if won else before)
    assert shape.usual_cost == pytest.approx(STEP_SECONDS * (0.5 if won else 1))


@pytest.mark.parametrize(
    ("phase", "event"),
    [
        (Phase.ALARMED, Event.TRY_BLINDLY),
        (Phase.TRIAL, Event.ALARM),
        (Phase.SETTLING, Event.DECIDED),
        (Phase.USUAL, Event.DECIDED),
    ],
)
def test_other_events_are_errors(phase: Phase, event: Event) -> None:
    with pytest.raises(KeyError):
        shape_in(phase).advance(event)


def test_the_threads_of_a_step_are_those_of_the_trial_while_it_lasts() -> None:
    assert {phase: shape_in(phase).threads for phase in Phase} == {
        Phase.USUAL: 2,
        Phase.ALARMED: 2,
        Phase.TRIAL: 1,
        Phase.ALARMED_TRIAL: 1,
        Phase.SETTLING: 2,
        Phase.BLIND_TRIAL: 2,
    }


def test_a_blind_trial_settles_at_the_first_step_that_is_not_hopeless() -> None:
    shape = shape_in(Phase.SETTLING)
    phases = []
    for seconds in (5 * STEP_SECONDS, STEP_SECONDS):
        shape.settle(1, seconds, NOW)
        phases.append(shape.phase)
    assert phases == [Phase.SETTLING, Phase.BLIND_TRIAL]
    assert not shape.trial.steps


def test_a_blind_trial_settles_in_time_whatever_its_steps_take() -> None:
    shape = shape_in(Phase.SETTLING)
    shape.settle(1, 5 * STEP_SECONDS, NOW + SETTLE_SECONDS)
    assert shape.phase is Phase.BLIND_TRIAL


@pytest.mark.parametrize("phase", [Phase.TRIAL, Phase.ALARMED_TRIAL])
def test_a_hopeless_trial_is_lost_at_its_first_step(phase: Phase) -> None:
    assert verdict_after(shape_in(phase), 2) is False


def test_a_hopeless_blind_trial_is_lost_when_it_has_wasted_enough() -> None:
    shape = shape_in(Phase.BLIND_TRIAL)
    n_steps = int(BLIND_WASTE_SECONDS / (2 * STEP_SECONDS))
    assert verdict_after(shape, *[3] * n_steps) is None
    assert verdict_after(shape, 3) is False


def test_a_clear_win_takes_a_few_steps() -> None:
    shape = shape_in(Phase.TRIAL)
    assert verdict_after(shape, *[0.6] * (CLEAR_WIN_STEPS - 1)) is None
    assert verdict_after(shape, 0.6) is True


@pytest.mark.parametrize(("phase", "won"), [(Phase.TRIAL, None), (Phase.ALARMED_TRIAL, True)])
def test_only_after_an_alarm_does_a_collapse_win_within_chance(phase: Phase, won: bool | None) -> None:
    shape = shape_in(phase)
    shape.recent = shape.recent.last(0)
    for factor in (0.2, 1.8, 0.2, 1.8):
        shape.recent.add(1, factor * STEP_SECONDS, STEP_SECONDS)
    assert verdict_after(shape, *[0.4] * CLEAR_WIN_STEPS) is won


@pytest.mark.parametrize(("factor", "won"), [(0.9, True), (0.97, False)])
def test_a_trial_in_doubt_is_long_and_decided_at_its_end(factor: float, won: bool) -> None:
    shape = shape_in(Phase.TRIAL)
    shape.crowding.crowded = True
    n_steps = int(LONG_TRIAL_SECONDS / (factor * STEP_SECONDS))
    assert verdict_after(shape, *[factor] * n_steps) is None
    assert verdict_after(shape, factor) is won


def test_crowding_changes_after_lasting_observations() -> None:
    crowding = Crowding()
    assert not crowding.observe(waiting=True, now=NOW)
    assert not crowding.observe(waiting=False, now=NOW + 0.2)
    assert not crowding.observe(waiting=True, now=NOW + 0.3)
    assert not crowding.observe(waiting=True, now=NOW + 0.2 + LASTING_SECONDS)
    assert crowding.observe(waiting=True, now=NOW + 0.31 + LASTING_SECONDS)
    assert crowding.crowded
    assert not crowding.observe(waiting=False, now=NOW + 1)
    assert crowding.observe(waiting=False, now=NOW + 1.01 + LASTING_SECONDS)
    assert not crowding.crowded


def test_a_shape_moves_with_another_one_and_forgets() -> None:
    shape = shape_in()
    shape.hint, shape.crowding.crowded = Direction.UP, True
    shape.move_to(1)
    assert (shape.recent.known, shape.hint, shape.crowding.crowded) == (True, Direction.UP, True)
    shape.move_to(0)
    assert (shape.rung, shape.recent.known, shape.hint, shape.crowding.crowded) == (0, False, Direction.NONE, False)


def test_lost_trials_of_fewer_threads_go_further_down_and_begin_again() -> None:
    shape = Shape((1, 2, 4, 8), 3, next_up=NOW, next_blind_up=NOW, next_down=NOW)
    rungs = []
    for shape.n_lost_down in range(4):
        rungs.append(shape.rung_down)
    assert rungs == [2, 1, 0, 2]
