import math

import pytest

from benchmarks import stats


@pytest.mark.parametrize(("percent", "expected"), [(0, 1), (50, 2), (75, 3), (95, 4), (99, 4), (100, 4)])
def test_percentiles_are_values_that_occurred(percent: float, expected: float) -> None:
    assert stats.percentile([4, 1, 3, 2], percent) == expected


def test_percentiles_of_one_or_no_value() -> None:
    assert stats.percentile([7], 1) == stats.percentile([7], 99) == 7
    assert math.isnan(stats.percentile([], 50))


def test_a_median_ignores_nan() -> None:
    assert stats.median([1, math.nan, 3]) == 2
    assert math.isnan(stats.median([]))


def test_medians_by_figure() -> None:
    rounds = [{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": 2.0}]
    assert stats.medians(rounds) == {"a": 2, "b": 5}


def test_ratios_are_taken_within_a_round() -> None:
    """A machine that was slow in the second round was slow for both systems."""
    figures, references = [{"a": 20.0}, {"a": 3.0}, {"a": 22.0}], [{"a": 10.0}, {"a": 1.5}, {"a": 10.0}]
    assert stats.paired_ratios(figures, references) == {"a": 2}
    assert stats.paired_ratios(figures, []) == {}
    assert math.isnan(stats.paired_ratios([{"a": 1.0}], [{"a": 0.0}])["a"])


def test_each_system_comes_once_a_round_and_none_is_always_first() -> None:
    order = stats.interleaved("abc", 3)
    assert [name for _, name in order] == list("abc" + "bca" + "cab")
    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert stats.interleaved([], 3) == []
