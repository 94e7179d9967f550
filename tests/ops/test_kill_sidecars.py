"""A short run of kill_sidecars with each database."""

import pytest

from benchmarks.databases import POSTGRESQL, SQLITE, database
from tests.ops.kill_sidecars import run

pytestmark = pytest.mark.slow

KILLS = 6


@pytest.mark.parametrize(("kind", "seed"), [(SQLITE, 1), (POSTGRESQL, 2)])
def test_nothing_announced_is_lost_or_stored_twice(kind: str, seed: int) -> None:
    with database(kind) as store:
        outcome = run(store, seed, kills=KILLS)
    assert outcome.problems == [], f"seed {seed}"
    assert outcome.n_announced > 20
    assert outcome.n_cut > 0
