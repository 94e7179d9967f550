"""A short check that the trial of expensive bodies works; `tests.ops.hostile_bodies` itself measures their effect."""

import pytest

from tests.ops.hostile import kinds
from tests.ops.hostile_bodies import trial

SIZE, VALUES = 400_000, 40_000


def test_bodies_stay_within_their_size() -> None:
    for name, hostile in kinds(SIZE, VALUES).items():
        body = hostile.body
        assert 0 < len(body) <= SIZE, name
        n_values = sum(map(body.count, (b",", b"[", b"{")))
        assert n_values <= VALUES or "within" not in name, name


@pytest.mark.parametrize("step", range(4))
def test_other_requests_are_answered_meanwhile(step: int) -> None:
    names = list(kinds(4096, 100))[step::4]
    alone, under_attack = trial(names, 1.0, SIZE, VALUES, connections=2, mixed=True)
    for period in (alone, under_attack):
        assert period.probes
        assert period.gaps
    assert under_attack.statuses.total() > 0
    assert set(under_attack.statuses) <= {"200", "400", "413", "429"}, under_attack.statuses
