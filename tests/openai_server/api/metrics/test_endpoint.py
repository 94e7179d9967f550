from openai_server.api.metrics.endpoint import METRICS
from openai_server.telemetry.observer import Observer
from tests.openai_server.api.fakes import request_context, services


async def test_a_scrape_counts_all_finished_requests() -> None:
    observer = Observer(log_access=False)
    scope = {"method": "GET", "raw_path": b"/x", "headers": []}

    async def receive() -> None:
        raise AssertionError

    observer.end(observer.begin(scope, receive, endpoint="/x"))
    response = await METRICS.handler(services(observer=observer))(request_context())
    assert b'requests_total{endpoint="/x",model="",status="0"} 1.0' in response.body
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
