from tests.e2e import servers
from tests.ops.leaks import house
from tests.ops.visitors import Visitors

MEMORY = 24
"""MiB by which a process may grow; a visit that leaves its answer behind costs more in all."""


def test_nothing_stays_behind() -> None:
    with house() as home:
        visitors = Visitors(home.url, seed=1)
        visitors.visit(50)
        home.wait_until_quiet()
        before = home.census()
        visitors.visit(130)
        home.wait_until_quiet()
        ends = home.capacity()

        def as_before() -> bool:
            return all(now.fds <= before[name].fds for name, now in home.census().items())

        servers.eventually(as_before)
        for name, now in home.census().items():
            assert now.resident <= before[name].resident + MEMORY, name
            assert now.threads <= before[name].threads + 8, name
    assert not visitors.failures
    assert visitors.statuses["200"] > 40
    assert [end for end in ends if not end.good] == []
