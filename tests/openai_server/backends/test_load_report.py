"""Reports of the backends' load: when they are requested, how long they count, and their sums."""

import asyncio

import pytest

from openai_server.backends import load_report
from openai_server.backends.load_report import INTERVAL, MAX_AGE, LoadReports
from openai_server.core.load import BackendLoad
from tests.openai_server.backends.fakes import FakeBackend, away, pool_of


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def reporting(target: str, *figures: int) -> FakeBackend:
    backend = FakeBackend(target)
    backend.reports_load, backend.load_result = True, BackendLoad(*figures)
    return backend


async def test_the_reports_of_all_backends_are_added() -> None:
    silent = FakeBackend("c:1")
    silent.n_running = 4
    reports = LoadReports(pool_of(reporting("a:1", 1, 2, 100, 30), reporting("b:1", 10, 20, 300, 50), silent))
    await reports.refresh()
    assert reports.reported == BackendLoad(11, 22, 400, 80)
    assert reports.reported.kv_usage == 0.2
    assert reports.n_unreported == 4
    assert silent.n_load_requests == 0, "other servers are never queried"


async def test_without_a_backend_that_reports_the_load_is_empty() -> None:
    reports = LoadReports(pool_of(FakeBackend()))
    await reports.refresh()
    assert reports.reported == BackendLoad()
    assert reports.reported.kv_usage is None


async def test_a_backend_is_queried_once_an_interval() -> None:
    clock, backend = Clock(), reporting("a:1", 1)
    reports = LoadReports(pool_of(backend), clock)
    for _ in range(3):
        await reports.refresh()
    assert backend.n_load_requests == 1
    clock.now += INTERVAL
    backend.load_result = BackendLoad(7)
    await reports.refresh()
    assert (backend.n_load_requests, reports.reported) == (2, BackendLoad(7))


async def test_a_late_report_is_not_waited_for_and_counts_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load_report, "WAIT", 0.001)
    clock, late, prompt = Clock(), reporting("a:1", 1), reporting("b:1", 10)
    late.may_answer.clear()
    reports = LoadReports(pool_of(late, prompt), clock)
    await reports.refresh()
    assert reports.reported == BackendLoad(10)
    clock.now += INTERVAL
    await reports.refresh()
    assert (late.n_load_requests, prompt.n_load_requests) == (1, 2), "one request at a time"
    late.may_answer.set()
    clock.now += INTERVAL
    await reports.refresh()
    assert reports.reported == BackendLoad(11)


async def test_an_old_report_does_not_count() -> None:
    clock, failing, other = Clock(), reporting("a:1", 1), reporting("b:1", 10)
    reports = LoadReports(pool_of(failing, other), clock)
    await reports.refresh()
    failing.load_result = away()
    for seconds, expected in ((MAX_AGE - 1, BackendLoad(11)), (2, BackendLoad(10))):
        clock.now += seconds
        await reports.refresh()
        assert reports.reported == expected
    other.load_result = away()
    clock.now += MAX_AGE + 1
    await reports.refresh()
    assert reports.reported is None, "unknown is not zero"


async def test_a_lost_connection_drops_the_report() -> None:
    backend = reporting("a:1", 1)
    reports = LoadReports(pool_of(backend))
    await reports.refresh()
    backend.reports_load = False
    await reports.refresh()
    assert reports.reported == BackendLoad()


async def test_closing_ends_requests() -> None:
    backend = reporting("a:1", 1)
    backend.may_answer.clear()
    reports = LoadReports(pool_of(backend))
    refreshing = asyncio.create_task(reports.refresh())
    await asyncio.sleep(0)
    reports.close()
    await asyncio.wait_for(refreshing, 1)
    assert reports.reported is None
