"""The load in a scrape: the queue of the sidecar, and what the backends report."""

import asyncio
import time

from openai_server.backends.load_report import WAIT
from openai_server.config import Config
from openai_server.serving import backends
from tests.wire.exposition import Scrape
from tests.wire.fake_worker import FakeWorker, hangs, serving
from tests.wire.sidecar import Sidecar, app_for, running

QUEUED, RUNNING, KV_USAGE = "openai_server_load_queued", "openai_server_load_running", "openai_server_load_kv_usage"


async def scrape_when(sidecar: Sidecar, name: str, value: float | None) -> Scrape:
    """Scrapes until the metric has this value; None: until it is absent."""
    async with asyncio.timeout(20):
        while True:
            scrape = Scrape((await sidecar.get("/metrics")).body)
            if (scrape.value(name) if name in scrape.names else None) == value:
                return scrape
            await asyncio.sleep(0.05)


async def test_the_load_of_several_workers_is_added() -> None:
    first, second = FakeWorker(load=(1, 2, 100, 30)), FakeWorker(load=(10, 20, 300, 70))
    async with serving(first) as first_port, serving(second) as second_port:
        pool = backends(Config(anyserve_endpoint=(f"127.0.0.1:{first_port}", f"127.0.0.1:{second_port}")))
        async with app_for(first_port, pool=pool) as sidecar:
            scrape = await scrape_when(sidecar, RUNNING, 22)
    assert scrape.value(QUEUED) == 11
    assert scrape.value(KV_USAGE) == 0.25
    assert scrape.series(QUEUED) == scrape.series(RUNNING) == scrape.series(KV_USAGE) == [{}]


async def test_a_running_request_counts_once_and_a_queued_one_here() -> None:
    worker = FakeWorker(hangs, load=(5, 7, 100, 10))
    async with running(worker, max_concurrency=1) as sidecar:
        await scrape_when(sidecar, RUNNING, 7)
        first = sidecar.start("POST", "/v1/completions", {"prompt": "x"})
        await worker.arrived.get()
        second = sidecar.start("POST", "/v1/completions", {"prompt": "x"})
        scrape = await scrape_when(sidecar, QUEUED, 6)
        assert scrape.value(RUNNING) == 7, "what the worker generates, not what this server has sent to it"
        for call in (second, first):
            call.disconnect()
            await call.task


async def test_a_backend_that_does_not_report_is_never_queried_and_its_requests_count() -> None:
    worker = FakeWorker(hangs)
    async with running(worker) as sidecar:
        await scrape_when(sidecar, RUNNING, 0)
        call = sidecar.start("POST", "/v1/completions", {"prompt": "x"})
        await worker.arrived.get()
        scrape = await scrape_when(sidecar, RUNNING, 1)
        assert KV_USAGE not in scrape.names
        assert worker.n_load_requests == 0
        assert len(worker.requests) == 1, "nothing but the client's request"
        call.disconnect()
        await call.task


async def test_frequent_scrapes_query_a_worker_rarely() -> None:
    worker = FakeWorker(load=(1, 2, 100, 30))
    async with running(worker) as sidecar:
        await scrape_when(sidecar, RUNNING, 2)
        before, started = worker.n_load_requests, time.monotonic()
        for _ in range(20):
            await sidecar.get("/metrics")
        assert worker.n_load_requests - before <= 1 + (time.monotonic() - started) / 0.25


async def test_a_worker_that_hangs_hardly_delays_a_scrape() -> None:
    worker = FakeWorker(load=(1, 2, 100, 30))
    worker.held["model_info"] = asyncio.Event()
    async with running(worker) as sidecar:
        await scrape_when(sidecar, RUNNING, None)  # connected, so that it is queried
        started = time.monotonic()
        for _ in range(3):
            assert KV_USAGE not in Scrape((await sidecar.get("/metrics")).body).names
        assert time.monotonic() - started < 3 * WAIT + 2
        worker.held["model_info"].set()
        await scrape_when(sidecar, RUNNING, 2)


async def test_vllms_names_are_those_of_the_default_model() -> None:
    async with running(FakeWorker(load=(1, 2, 100, 30)), metrics_names=("vllm",)) as sidecar:
        await sidecar.complete(prompt="x", stream=True)
        scrape = await scrape_when(sidecar, "vllm:num_requests_running", 2)
        assert scrape.series("vllm:num_requests_waiting") == [{"model_name": "tiny"}]
        assert scrape.value("vllm:kv_cache_usage_perc") == 0.3
        assert scrape.value("vllm:request_success_total", model_name="tiny") == 1
