"""Headers of an endpoint picker: what they change here, and how they reach the backend."""

import asyncio

import pytest

from protos import contract
from tests.wire.fake_worker import FakeWorker, hangs
from tests.wire.sidecar import running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

HEADERS = {
    "x-llm-d-inference-objective": "fast",
    "x-llm-d-inference-fairness-id": "team-a",
    "x-session-token": "dG9rZW4=",
    "x-session-id": "s-1",
    "x-llm-d-slo-ttft-ms": "250",
    "x-llm-d-slo-tpot-ms": "12.5",
}
REWRITE = "x-llm-d-model-name-rewrite"
FAIRNESS = "x-llm-d-inference-fairness-id"


@pytest.mark.parametrize("stream", [False, True])
async def test_the_headers_reach_the_backend(stream: bool) -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", "/v1/completions", {"prompt": "x", "stream": stream}, HEADERS)
    assert reply.status == 200
    parameters = {name: value.string_param for name, value in worker.requests[0].parameters.items()}
    if stream and worker.step_batches:
        expected = {contract.ROUTING_PARAMETERS[name]: value for name, value in HEADERS.items()}
        assert expected.items() <= parameters.items()
    else:
        assert set(HEADERS.items()) <= set(worker.metadata[0])
        assert not set(contract.ROUTING_PARAMETERS.values()) & parameters.keys()


async def test_other_requests_send_none_of_them() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        await sidecar.complete(prompt="x")
    assert not {name for name, _ in worker.metadata[0]} & contract.ROUTING_PARAMETERS.keys()
    assert contract.PARAM_CALLER not in worker.requests[0].parameters


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/completions", {"prompt": "x", "model": "no-such-model"}),
        ("/v1/models/other/completions", {"prompt": "x"}),
        ("/v1/embeddings", {"input": "x", "model": "other"}),
    ],
)
async def test_the_rewrite_replaces_the_model_of_body_and_path(path: str, body: dict[str, str]) -> None:
    worker = FakeWorker(models=("other", "tiny"), parameters={"tasks": "generate"})
    async with running(worker) as sidecar:
        reply = await sidecar.send("POST", path, body, {REWRITE: "tiny"})
    if path == "/v1/embeddings":
        assert (reply.status, reply.error["code"]) == (400, "unsupported_task")
        assert "'tiny'" in reply.error["message"]
        return
    assert reply.status == 200
    assert reply.json["model"] == worker.requests[0].model_name == "tiny"
    assert not {name for name, _ in worker.metadata[0]} & {REWRITE}, "it has been applied"


async def test_a_rewrite_to_an_unknown_model_is_a_404() -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, {REWRITE: "n" * 5000})
    assert (reply.status, reply.error["code"]) == (404, "model_not_found")
    assert len(reply.error["message"]) < 500


async def test_the_fairness_id_is_the_caller_only_without_keys() -> None:
    callers = []
    for keys in ((), ("key",)):
        worker = FakeWorker()
        async with running(worker, api_key=keys) as sidecar:
            headers = {FAIRNESS: "team-a", **({"authorization": "Bearer key"} if keys else {})}
            assert (await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, headers)).status == 200
        callers.append(worker.requests[0].parameters[contract.PARAM_CALLER].string_param)
    assert callers[0] == "team-a"
    assert callers[1]
    assert callers[1] != "team-a"


@pytest.mark.parametrize(("keys", "expected"), [((), ["b", "a", "a"]), (("key",), ["a", "a", "b"])])
async def test_slots_are_shared_between_fairness_ids_without_keys(keys: tuple[str, ...], expected: list[str]) -> None:
    worker = FakeWorker(hangs)
    async with running(worker, max_concurrency=1, api_key=keys) as sidecar:
        calls = {}
        for prompt, fairness_id in (("first", "a"), ("a1", "a"), ("a2", "a"), ("b1", "b")):
            headers = {FAIRNESS: fairness_id, "authorization": "Bearer key"}
            calls[prompt] = sidecar.start("POST", "/v1/completions", {"prompt": prompt}, headers)
            if prompt == "first":
                await worker.arrived.get()
            await asyncio.sleep(0.05)
        order = []
        for _ in range(3):
            last = worker.requests[-1].inputs[0].contents.bytes_contents[0].decode()
            calls.pop(last).disconnect()
            await asyncio.wait_for(worker.arrived.get(), 5)
            order.append(worker.requests[-1].inputs[0].contents.bytes_contents[0].decode()[0])
        for call in calls.values():
            call.disconnect()
            await call.task
    assert order == expected


async def test_clients_cannot_evade_a_rate_with_fairness_ids() -> None:
    async with running(FakeWorker(), requests_per_minute=2) as sidecar:
        statuses = [
            (await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, {FAIRNESS: f"id-{k}"})).status
            for k in range(3)
        ]
    assert statuses == [200, 200, 429]
