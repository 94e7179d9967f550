from tests.ops.leaks import house
from tests.ops.visitors import Visitors

MEMORY = 64
"""MiB. The worker's heap grows with the most that it ever held at once, which so few visits don't reach before."""


def test_nothing_stays_behind() -> None:
    with house() as home:
        visitors = Visitors(home.url, seed=1)
        visitors.introduce()
        visitors.visit(40)
        home.wait_until_quiet()
        before = home.census()
        visitors.visit(110)
        home.wait_until_quiet()
        assert home.problems(before, MEMORY) == []
    assert not visitors.failures
    assert visitors.statuses["200"] > 40
    assert visitors.n_left > 60
