"""Behaviour of the pair: clients that disconnect, a worker that restarts, long prompts, health, drain."""

import http.client
import json
import signal
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from scripts.ports import free_port
from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2, Pair
from tests.models import smollm2_path
from tests.wire.exposition import Scrape

TALK = {"messages": [{"role": "user", "content": "Tell me a long story."}], "temperature": 2.0}


def _post(url: str, body: dict[str, Any]) -> http.client.HTTPConnection:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection


def _get(url: str, path: str) -> tuple[int, dict[str, str], Any]:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", path)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, {k.lower(): v for k, v in response.getheaders()}, json.loads(body) if body else None


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_stops_the_worker(
    pair: Pair, service: GRPCInferenceServiceStub, stream: bool
) -> None:
    before = servers.statistics(service, SMOLLM2)
    connection = _post(pair.url, TALK | {"stream": stream, "n": 2})
    if stream:
        assert connection.getresponse().readline().startswith(b"data: ")
    servers.eventually(lambda: servers.statistics(service, SMOLLM2).execution_count > before.execution_count)
    connection.close()
    servers.eventually(
        lambda: servers.statistics(service, SMOLLM2).inference_stats.fail.count == before.inference_stats.fail.count + 1
    )
    steps = servers.statistics(service, SMOLLM2).execution_count
    assert _get(pair.url, "/health")[0] == 200
    assert servers.statistics(service, SMOLLM2).execution_count == steps, "the worker computes nothing more"


def _load(url: str) -> dict[str, float]:
    """Values of the load gauges in a scrape, by the end of their names."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    connection.request("GET", "/metrics")
    scrape = Scrape(connection.getresponse().read())
    connection.close()
    prefix = "openai_server_load_"
    return {name.removeprefix(prefix): scrape.value(name) for name in scrape.names if name.startswith(prefix)}


def test_a_scrape_has_the_sequences_and_kv_cells_of_a_running_request(pair: Pair) -> None:
    connection = _post(pair.url, TALK | {"stream": True, "n": 2})
    assert connection.getresponse().readline().startswith(b"data: ")
    servers.eventually(lambda: _load(pair.url).get("running") == 2)
    load = _load(pair.url)
    assert 0 < load["kv_usage"] < 1
    assert load["kv_cells"] >= 2048
    connection.close()
    servers.eventually(lambda: _load(pair.url) == load | {"queued": 0, "running": 0, "kv_usage": 0})


@pytest.fixture
def pinging_sidecar(worker_address: str) -> Iterator[str]:
    with servers.sidecar(worker_address, "--ping-interval", "0.1") as (_, url):
        yield url


def test_pings_are_sent_while_a_long_prompt_is_prefilled(pinging_sidecar: str) -> None:
    body = {"messages": [{"role": "user", "content": "hello " * 1500}], "stream": True, "max_tokens": 2}
    connection = _post(pinging_sidecar, body)
    events = connection.getresponse().read().decode().split("\n\n")
    connection.close()
    assert events[0].startswith(":")
    assert '"finish_reason":"' in events[-3]
    assert events[-2] == "data: [DONE]"


def test_a_worker_that_goes_and_comes_back_is_found() -> None:
    port = free_port()
    options = ("--model", f"{SMOLLM2}={smollm2_path()}", "--n-ctx", "1024", "--port", str(port))
    with servers.sidecar(f"127.0.0.1:{port}") as (_, url):
        assert _get(url, "/livez")[0] == 200
        for path in ("/health", "/readyz", "/v1/models"):
            status, headers, body = _get(url, path)
            assert status == 503
            if path == "/v1/models":
                assert int(headers["retry-after"]) > 0
                assert body["error"]["type"] == "server_error"
        with servers.worker(*options) as (process, _):
            servers.eventually(lambda: _get(url, "/readyz")[0] == 200)
            connection = _post(url, TALK | {"stream": True})
            response = connection.getresponse()
            assert response.readline().startswith(b"data: ")
            process.end(signal.SIGKILL)
            events = response.read().decode().split("\n\n")
            connection.close()
            assert "error" in json.loads(events[-3].removeprefix("data: "))
            assert events[-2] == "data: [DONE]"
            assert _get(url, "/health")[0] == 503
        with servers.worker(*options):
            servers.eventually(lambda: _get(url, "/readyz")[0] == 200)
            connection = _post(url, TALK | {"max_tokens": 3})
            assert connection.getresponse().status == 200
            connection.close()


def test_the_sidecar_finishes_its_streams_before_it_ends(worker_address: str) -> None:
    with servers.sidecar(worker_address) as (process, url):
        connection = _post(url, TALK | {"stream": True, "max_tokens": 60})
        response = connection.getresponse()
        assert response.readline().startswith(b"data: ")
        process.popen.terminate()
        assert response.read().endswith(b"data: [DONE]\n\n")
        connection.close()
        assert process.end() == 0
