import math

import pytest

from benchmarks import tables


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.01234, "0.012"), (1.2345, "1.23"), (12.345, "12.3"), (1234.5, "1,234"), (None, "–"), (math.nan, "–")],
)
def test_numbers(value: float | None, text: str) -> None:
    assert tables.number(value) == text


def test_ratios_and_percentages() -> None:
    assert (tables.ratio(0.984), tables.percent(0.984)) == ("0.98", "98 %")
    assert {tables.ratio(None), tables.percent(math.nan)} == {"–"}


def test_a_table() -> None:
    assert tables.table(["a", "b"], [["c", "1"]]) == ["| a | b |", "|---|---:|", "| c | 1 |"]
