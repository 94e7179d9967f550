import math

import pytest

from benchmarks import figures
from benchmarks.neighbour import reactions
from benchmarks.orders import Answer
from benchmarks.translator import stream_figures


def answer(sent: float, *times: float, **more: object) -> Answer:
    found = Answer(sent, ended=times[-1] if times else sent, times=list(times), choices=[0] * len(times))
    for name, value in more.items():
        setattr(found, name, value)
    return found


def test_serving() -> None:
    found = figures.serving([answer(0.0, 0.1, 0.2, 0.4, tokens=3), answer(0.5, 0.8, 1.0, tokens=2)])
    assert found["tokens_per_s"] == pytest.approx(5)
    assert found["ttft_p50_ms"] == pytest.approx(100)
    assert found["ttft_p95_ms"] == pytest.approx(300)
    assert found["gap_p50_ms"] == pytest.approx(200)
    assert (found["requests"], found["cut"], found["errors"]) == (2, 0, 0)


def test_chunks_are_counted_if_the_count_is_missing_or_too_low() -> None:
    assert figures.tokens_of(answer(0.0, 0.1, 0.2)) == 2
    assert figures.tokens_of(answer(0.0, 0.1, 0.2, tokens=1)) == 2
    assert figures.tokens_of(answer(0.0, 0.1, tokens=3)) == 3


def test_requests_cut_before_the_first_token_count_as_waits() -> None:
    found = figures.serving([answer(0.0, 0.1, 0.2), answer(0.0, cut=True, ended=2.0)])
    assert found["ttft_p95_ms"] == pytest.approx(2000)
    assert found["cut"] == 1


def test_errors_are_not_counted_as_answers() -> None:
    found = figures.serving([answer(0.0, 0.5, 1.0), answer(0.0, error="503")])
    assert (found["errors"], found["requests"]) == (1, 1)
    assert found["tokens_per_s"] == pytest.approx(2)
    assert figures.serving([])["tokens_per_s"] == 0


def test_gaps_are_within_a_choice() -> None:
    two = Answer(0.0, times=[1.0, 1.1, 2.0, 2.3], choices=[0, 1, 0, 1])
    assert figures.gaps(two) == [(1.0, 2.0), (1.1, 2.3)]


def test_long_arrival_covers_only_the_time_of_its_prompt() -> None:
    running = answer(0.0, 1.0, 2.0, 5.0, 6.0, 6.1)
    found = figures.long_arrival([running, answer(3.0, 5.5, late=True)])
    assert found["ttft_ms"] == pytest.approx(2500)
    # The waits 2 → 5 and 5 → 6 overlap it.
    assert found["gap_p99_ms"] == pytest.approx(3000)
    assert found["gap_p50_ms"] == pytest.approx(1000)
    assert found["running_tokens"] == 1
    assert figures.long_arrival([running]) == {"errors": 1}


def test_an_unfinished_wait_counts() -> None:
    running = answer(0.0, 1.0, 2.0, cut=True, ended=9.0)
    assert figures.long_arrival([running, answer(3.0, 8.0, late=True)])["gap_p99_ms"] == pytest.approx(7000)


def test_rates_by_bin() -> None:
    assert figures.rates([answer(0.0, 0.1, 0.2, 0.6), answer(0.0, 0.7, 9.0)], 0.5, 1.0) == [4, 4]


def test_streams() -> None:
    found = stream_figures(
        [Answer(0.0, ended=2.0, tokens=10, events=11), Answer(0.0, ended=2.0, tokens=10, events=6)], 0.5
    )
    assert found["tokens_per_cpu_s"] == 40
    assert found["tokens_per_s"] == 10
    assert found["chunks_per_token"] == pytest.approx(0.75)
    assert stream_figures([], 0.0)["tokens_per_cpu_s"] == 0


def test_reaction_is_the_time_until_the_rate_is_steady() -> None:
    # Ten per second until a neighbour comes after 2 s; then 2 for a second, then 5.
    rates = [10.0] * 8 + [2.0] * 4 + [5.0] * 16
    (found,) = reactions(rates, [2.0], 7.0)
    assert found == pytest.approx(1.0, abs=0.26)


def test_a_phase_that_is_too_short_has_no_reaction() -> None:
    assert reactions([1.0] * 8, [1.0], 2.0) == []


def test_figures_without_answers_are_nan() -> None:
    assert math.isnan(figures.serving([])["ttft_p50_ms"])
