"""Times and progress of whole requests. Their values depend on the machine, so only their order is checked."""

import pytest

from anyserve_worker.core.delta import Delta, merge
from tests.anyserve_worker.engine.test_engine import OPTIONS, collect, engine_on, new_request
from tests.anyserve_worker.fakes import FakeRunner

LONG = "q" * 40


async def test_each_delta_of_a_timed_request_has_the_times_so_far() -> None:
    async with engine_on(FakeRunner({"q": b"abc"})) as engine:
        deltas = await collect(await engine.submit(new_request("q", timings=True, n=2)))
    times = [delta.times for delta in deltas if delta.times]
    assert len(times) == len(deltas) == 8
    assert len({time.prompt_ms for time in times}) == 1
    assert times[0].prompt_ms > 0
    assert times[0].completion_ms == 0
    completion = [time.completion_ms for time in times]
    assert completion == sorted(completion)
    assert completion[-1] > 0


async def test_a_request_without_the_inputs_has_neither_times_nor_progress() -> None:
    async with engine_on(FakeRunner({LONG: b"abc"})) as engine:
        deltas = await collect(await engine.submit(new_request(LONG)))
    assert not any(delta.times or delta.progress for delta in deltas)


@pytest.mark.parametrize("n", [1, 3])
async def test_progress_is_reported_after_each_step_of_the_prompt(n: int) -> None:
    runner = FakeRunner({LONG: b"abc"}, n_batch=16)
    async with engine_on(runner) as engine:
        deltas = await collect(await engine.submit(new_request(LONG, prompt_progress=True, n=n)))
        again = await collect(await engine.submit(new_request(LONG, prompt_progress=True)))
    steps = [step for delta in deltas for step in delta.progress]
    assert [step.n_tokens for step in steps] == [0, 16, 32, 40]
    assert [step.ms for step in steps] == sorted(step.ms for step in steps)
    assert steps[0].ms == 0 < steps[-1].ms
    silent = [delta for delta in deltas if not delta.has_output]
    assert [len(delta.progress) for delta in silent] == [2, 1, 1]
    assert [choice.text for choice in merge(deltas)] == ["abc"] * n
    assert [delta.begins for delta in deltas if delta.index == 0 and delta.has_output] == [True, False, False, False]
    assert not any(delta.times for delta in deltas)
    cached = merge(again)[0].cached_tokens
    assert cached > 0
    assert [step.n_tokens for delta in again for step in delta.progress] == [cached, 40]


async def test_a_prompt_that_is_computed_again_reports_no_progress_twice() -> None:
    runner = FakeRunner({"w" * 20: b"x" * 30, "v" * 20: b"y" * 30}, n_batch=16, n_cells=60)
    async with engine_on(runner, OPTIONS) as engine:
        generations = [await engine.submit(new_request(letter * 20, prompt_progress=True)) for letter in ("w", "v")]
        answers: list[list[Delta]] = [await collect(generation) for generation in generations]
        assert engine.n_preempted
    for deltas in answers:
        counts = [step.n_tokens for delta in deltas for step in delta.progress]
        assert counts == sorted(set(counts))
        assert counts[-1] == 20
