from types import SimpleNamespace

from openai_server.api.metrics.endpoint import METRICS
from openai_server.backends.load_report import LoadReports
from openai_server.telemetry.observer import Observer
from tests.openai_server.api.fakes import request_context, services
from tests.openai_server.backends.fakes import FakeBackend, pool_of


async def test_a_scrape_counts_all_finished_requests() -> None:
    observer = Observer(log_access=False)
    scope = {"method": "GET", "raw_path": b"/x", "headers": []}

    async def receive() -> None:
        raise AssertionError

    observer.end(observer.begin(scope, receive, endpoint="/x"))
    pool = pool_of(FakeBackend())
    catalog = SimpleNamespace(default_name="m")
    served = services(observer=observer, load_reports=LoadReports(pool), catalog=catalog)
    response = await METRICS.handler(served)(request_context())
    assert b'requests_total{endpoint="/x",model="",status="0"} 1.0' in response.body
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
