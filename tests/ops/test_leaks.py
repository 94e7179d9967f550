from tests.ops.leaks import house
from tests.ops.visitors import Visitors


def test_nothing_stays_behind() -> None:
    with house() as home:
        visitors = Visitors(home.url, seed=1)
        visitors.introduce()
        visitors.visit(60)
        home.wait_until_quiet()
        before = home.census()
        visitors.visit(120)
        home.wait_until_quiet()
        assert home.problems(before) == []
    assert not visitors.failures
    assert visitors.statuses["200"] > 40
    assert visitors.n_left > 60
