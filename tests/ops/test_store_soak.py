"""A short run of store_soak with each database, and its figures."""

import pytest

from benchmarks.databases import KINDS, database
from tests.ops.growth import growth
from tests.ops.store_soak import Soak, problems_of_growth, run

SECONDS = 15.0
RETENTION_SECONDS = 4.0
GROWTH_MIB = 64.0
"""A sidecar's heap grows for minutes; the long run has the bound that counts."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_traffic_of_a_short_time(kind: str) -> None:
    with database(kind) as store:
        soak = run(store, 1, SECONDS, RETENTION_SECONDS, waits=False)
    assert soak.problems == []
    # The database isn't swept in this time.
    assert problems_of_growth(Soak(soak.memory, soak.memory), GROWTH_MIB) == []
    assert len(soak.memory) > SECONDS / 2
    assert soak.counts["respond"] > 20


def test_growth_is_that_of_the_line_through_the_samples() -> None:
    assert growth([5.0, 5.0, 5.0]) == 0
    assert growth([1.0, 2.0, 3.0, 4.0]) == pytest.approx(3)
    assert abs(growth([1.0, 9.0, 1.0, 9.0, 1.0])) < 1e-9


def test_what_grows_is_a_problem() -> None:
    flat, rising = [50.0] * 40, [50.0 + 2 * i for i in range(40)]
    assert problems_of_growth(Soak(flat, flat)) == []
    assert problems_of_growth(Soak([*range(20), *flat[:20]], flat)) == [], "it grew at the beginning"
    assert "memory" in problems_of_growth(Soak(rising, flat))[0]
    assert "database" in problems_of_growth(Soak(flat, rising))[0]
