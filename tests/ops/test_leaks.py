from tests.ops.leaks import observed_pair
from tests.ops.visitors import Visitors

GROWTH_MIB = 64
"""MiB. The worker's heap grows with its peak use, which the short warm-up doesn't reach."""


def test_nothing_is_left_after_clients_have_gone() -> None:
    with observed_pair() as pair:
        visitors = Visitors(pair.url, seed=1)
        visitors.warm_up()
        visitors.visit(40)
        pair.wait_until_quiet()
        before = pair.census()
        visitors.visit(110)
        pair.wait_until_quiet()
        assert pair.problems(before, GROWTH_MIB) == []
    assert not visitors.failures
    assert visitors.statuses["200"] > 40
    assert visitors.n_disconnected > 60
