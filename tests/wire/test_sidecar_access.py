"""Access to the sidecar: API keys, limits on size, concurrency and rate, and CORS."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from anyserve_common import file_watch
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.ops.able_worker import able_worker
from tests.wire.fake_worker import FakeWorker, Refusal, hangs_midway, inputs_of, last_token, refuses, token, whole
from tests.wire.sidecar import Call, Reply, Sidecar, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

COMPLETIONS = "/v1/completions"
ORIGIN = "https://chat.example.com"
TIMEOUT = 30


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  # the condition has no event
            await asyncio.sleep(0.01)


# ---- Keys


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", COMPLETIONS),
        ("POST", "/v1/chat/completions"),
        ("POST", "/chat/completions"),
        ("POST", "/tiny/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("POST", "/tokenize"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/tiny"),
        ("GET", "/nowhere"),
        ("DELETE", COMPLETIONS),
        ("OPTIONS", COMPLETIONS),
        ("GET", "/health/"),
    ],
)
async def test_every_path_needs_a_key(method: str, path: str) -> None:
    worker = FakeWorker()
    async with running(worker, api_key=("right",)) as sidecar:
        for headers in (
            {},
            bearer("wrong"),
            {"authorization": "right"},
            {"api-key": "wrong"},
            {"x-api-key": "wrong"},
            {"x-api-key": "wrong", **bearer("right")},
        ):
            reply = await sidecar.send(method, path, {"prompt": "x"}, headers)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "wrong" not in str(reply)
        for headers in (bearer("right"), {"api-key": "right"}, {"x-api-key": "right"}):
            assert (await sidecar.send(method, path, {"prompt": "x"}, headers)).status != 401


async def test_a_key_gives_access_and_probes_need_none() -> None:
    async with running(FakeWorker(), api_key=("a", "b")) as sidecar:
        for key in ("a", "b"):
            assert (await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, bearer(key))).status == 200
        for path in ("/livez", "/readyz", "/health"):
            assert (await sidecar.get(path)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_backend_gets_the_caller_but_no_key(stream: bool, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("team-a: sk-one\nteam-a: sk-two\nsk-three\n")
    worker = FakeWorker()
    async with running(worker, api_key_file=keys) as sidecar:
        for key in ("sk-one", "sk-two", "sk-three"):
            await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "stream": stream}, bearer(key))
    first, second, third = (request.parameters["anyserve_caller"].string_param for request in worker.requests)
    assert first == second == "name team-a"
    assert third not in ("", first)
    assert "sk-" not in str(worker.requests)
    without_keys = FakeWorker()
    async with running(without_keys) as sidecar:
        await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "stream": stream})
    assert "anyserve_caller" not in without_keys.requests[0].parameters


async def test_the_key_file_is_followed_also_through_symlinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(file_watch, "INTERVAL", 0.02)
    # Kubernetes mounts a secret like this: keys → ..data/keys, ..data → ..1/, and `..data` is swapped.
    link, data = tmp_path / "keys", tmp_path / "..data"
    link.symlink_to("..data/keys")

    def mount(version: str, content: bytes | None) -> None:
        (tmp_path / version).mkdir()
        if content is not None:
            (tmp_path / version / "keys").write_bytes(content)
        (tmp_path / "new").symlink_to(version)
        os.replace(tmp_path / "new", data)

    mount("..1", b"alice: one\n")
    async with running(FakeWorker(), api_key=("always",), api_key_file=link) as sidecar:

        async def status(key: str) -> int:
            return (await sidecar.send("GET", "/v1/models", headers=bearer(key))).status

        assert [await status(key) for key in ("always", "one", "two")] == [200, 200, 401]
        with caplog.at_level(logging.INFO):
            mount("..2", b"alice: two\n")
            await until(lambda: ": reloaded" in caplog.text)
            assert [await status(key) for key in ("always", "one", "two")] == [200, 401, 200]
            for i, (bad, problem) in enumerate(
                [
                    (None, "No such file"),
                    (b"sk-secret and more", "line 1 is neither"),
                    (b"\xffsk-secret", "not UTF-8"),
                    (b"", "there is no key in it"),
                    (b"alice: two\ncarol:", "line 2 has a name without a key"),
                    (b"alice: sk-secret\nbob: sk-secret", "lines 1 and 2 have the same key"),
                    (b"alice: two\nbob: always", "it gives key 1 of --api-key to another caller"),
                ]
            ):
                mount(f"..bad{i}", bad)
                await until(lambda problem=problem: problem in caplog.text)  # type: ignore[misc]
                # gRPC logs an error too if a call of an earlier test ends after that test's event loop.
                errors = [record for record in caplog.records if record.levelname == "ERROR"]
                assert len([record for record in errors if record.name == file_watch.log.name]) == i + 1
                assert [await status(key) for key in ("always", "one", "two")] == [200, 401, 200]
            mount("..3", b"three")
            await until(lambda: caplog.text.count(": reloaded") == 2)
            assert [await status(key) for key in ("two", "three")] == [401, 200]
    assert "secret" not in caplog.text


# ---- Limits on size


@pytest.mark.parametrize("stream", [False, True])
async def test_a_value_above_a_limit_names_its_field(stream: bool) -> None:
    worker = FakeWorker()
    limits: dict[str, Any] = {"max_output_tokens": 10, "max_n": 2, "max_prompt_chars": 100, "max_schema_bytes": 50}
    async with running(worker, **limits) as sidecar:
        too_much: dict[str, dict[str, object]] = {
            "max_tokens": {"max_tokens": 11},
            "n": {"n": 3},
            "prompt[1]": {"prompt": ["x", "x" * 101]},
            "regex": {"regex": "x" * 51},
        }
        for param, fields in too_much.items():
            reply = await sidecar.complete(**{"prompt": "x", "stream": stream, **fields})
            assert (reply.status, reply.error["param"]) == (400, param)
        reply = await sidecar.chat({"role": "user", "content": "x" * 80}, stream=stream)
        assert (reply.status, reply.error["param"]) == (400, "messages")  # including the template's text
        assert worker.requests == []
        assert (await sidecar.chat(stream=stream)).status == 200
        assert inputs_of(worker.requests[0])["max_tokens"] == [10]


# ---- Limits on concurrency


class HeldResponses:
    """Scripts that send one response for each release of `may`."""

    def __init__(self) -> None:
        self.may = asyncio.Semaphore(0)

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        await self.may.acquire()
        return whole(inputs_of(request)["prompt"][0].decode())

    async def stream(self, _: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await self.may.acquire()
        yield last_token("two")

    def worker(self) -> FakeWorker:
        return FakeWorker(self.infer, self.stream)


def prompts(worker: FakeWorker) -> list[str]:
    return [inputs_of(request)["prompt"][0].decode() for request in worker.requests]


def start_completion(sidecar: Sidecar, prompt: str, *, key: str = "a", stream: bool = False) -> Call:
    return sidecar.start("POST", COMPLETIONS, {"prompt": prompt, "stream": stream}, bearer(key))


async def replied(call: Call) -> Reply:
    await asyncio.wait_for(call.task, TIMEOUT)
    return call.reply


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_beyond_concurrency_and_queue_are_refused(stream: bool) -> None:
    held = HeldResponses()
    worker = held.worker()
    async with running(worker, max_concurrency=2, max_queue=1) as sidecar:
        calls = []
        for i in range(3):
            calls.append(start_completion(sidecar, str(i), stream=stream))
            await until(lambda n=i: len(worker.requests) == min(n + 1, 2))  # type: ignore[misc]
        refused = await replied(start_completion(sidecar, "3", stream=stream))
        assert (refused.status, refused.error["type"], refused.error["code"]) == (
            *(429, "rate_limit_error"),
            "server_overloaded",
        )
        assert refused.headers["retry-after"] == "1"
        assert prompts(worker) == ["0", "1"]
        held.may.release()
        await until(lambda: len(worker.requests) == 3)
        for _ in range(2):
            held.may.release()
        assert [(await replied(call)).status for call in calls] == [200] * 3
        held.may.release()
        assert (await replied(start_completion(sidecar, "4", stream=stream))).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_flood_from_one_key_does_not_starve_another(stream: bool) -> None:
    held = HeldResponses()
    worker = held.worker()
    async with running(worker, max_concurrency=1, max_queue=4, api_key=("a", "b")) as sidecar:
        flood = [start_completion(sidecar, f"a{i}", stream=stream) for i in range(5)]
        await until(lambda: len(worker.requests) == 1)
        others_calls = [start_completion(sidecar, f"b{i}", key="b", stream=stream) for i in range(2)]
        dropped = [await replied(call) for call in flood[3:]]  # make room for b's
        assert [reply.error["code"] for reply in dropped] == ["server_overloaded"] * 2
        for n in range(5):
            await until(lambda n=n: len(worker.requests) == n + 1)  # type: ignore[misc]
            held.may.release()
        assert [(await replied(call)).status for call in flood[:3] + others_calls] == [200] * 5
    assert prompts(worker) == ["a0", "b0", "a1", "b1", "a2"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_disconnects_leaves_the_queue(stream: bool) -> None:
    held = HeldResponses()
    worker = held.worker()
    async with running(worker, max_concurrency=1, max_queue=1) as sidecar:
        first = start_completion(sidecar, "first", stream=stream)
        await until(lambda: len(worker.requests) == 1)
        departed = start_completion(sidecar, "gone", stream=stream)
        await asyncio.sleep(0.1)
        departed.disconnect()
        await asyncio.wait_for(departed.task, TIMEOUT)
        waiting = start_completion(sidecar, "waits", stream=stream)
        first.disconnect()  # a running request too
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
        held.may.release()
        assert (await replied(waiting)).status == 200
    assert prompts(worker) == ["first", "waits"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_request_that_waits_too_long_is_refused_and_costs_nothing(stream: bool) -> None:
    held = HeldResponses()
    worker = held.worker()
    limits: dict[str, Any] = {"max_concurrency": 1, "max_queue": 5, "queue_timeout": 0.2, "tokens_per_minute": 10**6}
    async with running(worker, **limits) as sidecar:
        sidecar.app.gate.clock = lambda: 1e6  # nothing refills
        first = start_completion(sidecar, "first", stream=stream)
        await until(lambda: len(worker.requests) == 1)
        refused = await replied(start_completion(sidecar, "late", stream=stream))
        assert (refused.status, refused.error["type"], refused.error["code"]) == (
            429,
            "rate_limit_error",
            "server_overloaded",
        )
        assert refused.headers["retry-after"] == "1"
        refused_again = await replied(start_completion(sidecar, "late", stream=stream))
        tokens = "x-ratelimit-remaining-tokens"
        assert refused_again.headers[tokens] == refused.headers[tokens], (
            "the reservation of the refused request is returned"
        )
        assert sidecar.app.gate.admission.waiting == 0
        for _ in range(2):
            held.may.release()
        assert (await replied(first)).status == 200
        assert (await replied(start_completion(sidecar, "now", stream=stream))).status == 200
    assert prompts(worker) == ["first", "now"]


async def test_a_request_that_gets_a_slot_in_time_has_no_queue_timeout_later() -> None:
    held = HeldResponses()
    async with running(held.worker(), max_concurrency=1, queue_timeout=0.3) as sidecar:
        calls = [start_completion(sidecar, str(i), stream=True) for i in range(2)]
        await asyncio.sleep(0.1)
        held.may.release()
        assert (await replied(calls[0])).status == 200
        await asyncio.sleep(0.5)
        held.may.release()
        assert "".join(event["choices"][0]["text"] for event in (await replied(calls[1])).events) == "onetwo"


async def test_the_bodies_of_all_requests_have_a_limit_together() -> None:
    held = HeldResponses()
    worker = held.worker()
    async with running(worker, max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        first = start_completion(sidecar, "x" * 500)
        await until(lambda: len(worker.requests) == 1)
        for path in (COMPLETIONS, "/v1/embeddings", "/tiny/completions"):
            refused = await sidecar.send("POST", path, {"prompt": "x" * 500})
            assert (refused.status, refused.error["code"]) == (429, "server_overloaded")
            assert refused.headers["retry-after"] == "1"
        second = start_completion(sidecar, "small", stream=True)
        held.may.release()
        held.may.release()
        assert [(await replied(call)).status for call in (first, second)] == [200, 200]
        held.may.release()
        assert (await sidecar.complete(prompt="x" * 900)).status == 200
        assert (await sidecar.complete(prompt="x" * 2000)).status == 413
        departed = start_completion(sidecar, "x" * 500)
        await until(lambda: sidecar.app.gate.held > 500)
        departed.disconnect()
        await asyncio.wait_for(departed.task, TIMEOUT)
        assert sidecar.app.gate.held == 0


async def test_a_request_without_a_body_reserves_no_memory() -> None:
    held = HeldResponses()
    async with running(held.worker(), api_key=("a", "b"), max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        assert (await sidecar.send("POST", COMPLETIONS, b"", bearer("b"))).status == 400
        assert not sidecar.app.gate._held_by


async def test_a_caller_with_small_bodies_is_not_refused_because_of_another_callers() -> None:
    held = HeldResponses()
    worker = held.worker()
    async with running(worker, api_key=("a", "b"), max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        first = start_completion(sidecar, "x" * 800, key="a")
        await until(lambda: len(worker.requests) == 1)
        assert (await replied(start_completion(sidecar, "x" * 200, key="a"))).status == 429
        second = start_completion(sidecar, "x" * 200, key="b")
        held.may.release()
        held.may.release()
        assert [(await replied(call)).status for call in (first, second)] == [200, 200]
        assert sidecar.app.gate.held == 0


# ---- Limits on rate


async def test_requests_per_minute_are_limited_for_each_key() -> None:
    async with running(FakeWorker(), requests_per_minute=3, api_key=("a", "b")) as sidecar:
        for remaining in (2, 1, 0):
            path = COMPLETIONS if remaining else "/tiny/completions"
            reply = await sidecar.send("POST", path, {"prompt": "x", "stream": remaining == 1}, bearer("a"))
            assert reply.status == 200
            assert reply.headers["x-ratelimit-limit-requests"] == "3"
            assert reply.headers["x-ratelimit-remaining-requests"] == str(remaining)
            assert "x-ratelimit-limit-tokens" not in reply.headers
        for path in (COMPLETIONS, "/v1/embeddings"):
            reply = await sidecar.send("POST", path, {"prompt": "x"}, bearer("a"))
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        assert 18 <= int(reply.headers["retry-after"]) <= 20
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert reply.headers["x-ratelimit-reset-requests"].endswith("s")
        assert (await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, bearer("b"))).status == 200
        assert (await sidecar.send("GET", "/v1/models", headers=bearer("a"))).status == 200


async def charged_tokens(sidecar: Sidecar, call: Callable[[], Any]) -> int:
    """Returns the tokens charged so far, from the headers of a refused request, which reserves RESERVED_TOKENS."""
    sidecar.app.gate.clock = lambda: 1e6  # nothing refills
    before = int((await sidecar.complete(prompt=[])).headers["x-ratelimit-remaining-requests"])
    await call()
    reply = await sidecar.send("POST", "/detokenize", {"tokens": [1]})
    assert before - int(reply.headers["x-ratelimit-remaining-requests"]) >= 2
    return 10**6 - int(reply.headers["x-ratelimit-remaining-tokens"])


RATES: dict[str, Any] = {"requests_per_minute": 1000, "tokens_per_minute": 10**6}


@pytest.mark.parametrize("stream", [False, True])
async def test_charged_tokens_are_those_that_the_backend_counted(stream: bool) -> None:
    # The fake worker counts 3 tokens for the prompt and 2 for each choice.
    async with running(FakeWorker(), **RATES) as sidecar:
        cost = await charged_tokens(
            sidecar, lambda: sidecar.complete(prompt=["x", "y"], n=2, max_tokens=1000, stream=stream)
        )
    assert cost == 2 * (3 + 2 * 2) + RESERVED_TOKENS


RESERVED_TOKENS = 1
"""Reserved for the request that reads the headers: its body has one token id."""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_failed_request_costs_nothing(stream: bool) -> None:
    async def fails(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        raise Refusal("INTERNAL", "no")
        yield whole()

    worker = FakeWorker(refuses(Refusal("INTERNAL", "no")), fails)
    async with running(worker, **RATES) as sidecar:
        assert (
            await charged_tokens(sidecar, lambda: sidecar.complete(prompt="x" * 400, stream=stream)) == RESERVED_TOKENS
        )


async def test_a_cancelled_stream_costs_what_was_delivered() -> None:
    async with running(FakeWorker(stream=hangs_midway), **RATES) as sidecar:

        async def cut_off() -> None:
            call = sidecar.start("POST", COMPLETIONS, {"prompt": "x" * 370, "max_tokens": 9999, "stream": True})
            await asyncio.wait_for(call.until(b"one"), TIMEOUT)
            reserved = (await sidecar.send("POST", "/detokenize", {"tokens": [1]})).headers
            assert int(reserved["x-ratelimit-remaining-tokens"]) < 10**6 - 9999
            call.disconnect()
            await asyncio.wait_for(call.task, TIMEOUT)

        cost = await charged_tokens(sidecar, cut_off)
    assert 100 + 1 <= cost - RESERVED_TOKENS <= 110 + 1


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions/input_tokens", {"messages": [{"role": "user", "content": "x" * 2000}]}),
        ("/v1/responses/input_tokens", {"input": "x" * 2000}),
        ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x" * 2000}]}),
    ],
)
async def test_counting_tokens_costs_none(path: str, body: dict[str, Any]) -> None:
    async with running(able_worker(), tokens_per_minute=1000) as sidecar:
        for _ in range(3):
            counted = await sidecar.send("POST", path, body)
            assert counted.status == 200, counted.body
        reply = await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "max_tokens": 900})
    assert reply.status == 200, reply.body


async def test_tokens_per_minute_are_limited() -> None:
    async with running(FakeWorker(), tokens_per_minute=1000) as sidecar:
        assert (await sidecar.complete(prompt="x", max_tokens=600)).status == 200
        assert (await sidecar.complete(prompt="x", max_tokens=600)).status == 200  # the first request used 5 of its 600
    held = HeldResponses()
    async with running(held.worker(), tokens_per_minute=1000) as sidecar:
        first = sidecar.start("POST", COMPLETIONS, {"prompt": "x", "max_tokens": 600})
        await asyncio.sleep(0.1)
        for stream in (False, True):
            reply = await sidecar.complete(prompt="x", max_tokens=600, stream=stream)
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
            assert "1000 tokens per minute" in reply.error["message"]
            assert 0 < int(reply.headers["retry-after"]) <= 15
            assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 600
        embedding = await sidecar.send("POST", "/v1/embeddings", {"input": "x" * 2400})
        assert (embedding.status, embedding.error["code"]) == (429, "rate_limit_exceeded")
        held.may.release()
        assert (await replied(first)).status == 200


# ---- Browsers


async def test_a_page_of_an_allowed_origin_has_access() -> None:
    async with running(FakeWorker(), cors_origin=(ORIGIN,), api_key=("a",)) as sidecar:
        preflight_headers = {
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "api-key,authorization,content-type,x-api-key",
        }
        preflight = await sidecar.send("OPTIONS", COMPLETIONS, headers=preflight_headers)
        assert preflight.status == 204
        for name in ("authorization", "api-key", "x-api-key"):
            assert name in preflight.headers["access-control-allow-headers"].split(",")
        replies = []
        for stream in (False, True):
            headers = {"origin": ORIGIN, **bearer("a")}
            replies.append(await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "stream": stream}, headers))
            replies.append(await sidecar.send("POST", COMPLETIONS, {"prompt": 3, "stream": stream}, headers))
        replies.append(await sidecar.send("GET", "/v1/models", headers={"origin": ORIGIN, **bearer("a")}))
        replies.append(await sidecar.send("GET", "/nowhere", headers={"origin": ORIGIN, **bearer("a")}))
        replies.append(await sidecar.send("GET", "/nowhere", headers={"origin": ORIGIN}))
        assert [reply.status for reply in replies] == [200, 400, 200, 400, 200, 404, 401]
        for reply in (preflight, *replies):
            assert reply.headers["access-control-allow-origin"] == ORIGIN
            assert reply.headers["vary"] == "Origin"


async def test_pages_of_other_origins_have_no_access() -> None:
    preflight_headers = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    for origins in ((), (ORIGIN,)):
        async with running(FakeWorker(), cors_origin=origins) as sidecar:
            replies = [
                await sidecar.send("OPTIONS", COMPLETIONS, headers=preflight_headers),
                await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, {"origin": "https://evil.example.com"}),
            ]
        assert [reply.status for reply in replies] == [405, 200]
        assert not any(name.startswith("access-control") for reply in replies for name in reply.headers)
