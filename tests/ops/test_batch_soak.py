"""A short run of batch_soak with each database, and its figures."""

import pytest

from benchmarks.databases import KINDS, database
from tests.ops.batch_soak import Soak, problems_of_growth, run

SECONDS = 15.0
GROWTH_MIB = 64.0
"""A sidecar's heap grows for minutes; the long run has the bound that counts."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_traffic_of_a_short_time(kind: str) -> None:
    with database(kind) as store:
        soak = run(store, 1, SECONDS)
    assert soak.problems == []
    assert problems_of_growth(Soak(soak.memory, soak.memory, soak.memory), GROWTH_MIB) == []
    assert soak.counts["create_file"] > 5
    assert soak.counts["batches completed"] > 0


def test_blobs_or_rows_that_grow_are_a_problem() -> None:
    flat, rising = [50.0] * 40, [50.0 + 2 * i for i in range(40)]
    assert problems_of_growth(Soak(flat, flat, flat)) == []
    assert "memory" in problems_of_growth(Soak(rising, flat, flat))[0]
    assert "blobs" in problems_of_growth(Soak(flat, rising, flat))[0]
    assert "database" in problems_of_growth(Soak(flat, flat, rising))[0]
