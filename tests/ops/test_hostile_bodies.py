"""A short look that the trial of expensive bodies works; what it measures is for `tests.ops.hostile_bodies` itself."""

import pytest

from tests.ops.hostile import kinds
from tests.ops.hostile_bodies import trial

SIZE, VALUES = 400_000, 40_000


def test_bodies_are_as_large_as_they_should_be() -> None:
    for name, hostile in kinds(SIZE, VALUES).items():
        body = hostile.body
        assert 0 < len(body) <= SIZE, name
        n_values = sum(map(body.count, (b",", b"[", b"{")))
        assert n_values <= VALUES or "within" not in name, name


@pytest.mark.parametrize("step", range(4))
def test_others_are_answered_meanwhile(step: int) -> None:
    names = list(kinds(4096, 100))[step::4]
    alone, attacked = trial(names, 1.0, SIZE, VALUES, connections=2, mixed=True)
    for seen in (alone, attacked):
        assert seen.probes
        assert seen.gaps
    assert attacked.statuses.total() > 0
    assert set(attacked.statuses) <= {"200", "400", "413", "429"}, attacked.statuses
