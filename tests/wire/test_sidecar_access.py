"""The sidecar's door: who is let in, how much one may ask for, how many at a time, and what browsers are told."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from anyserve_common import file_watch
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.wire.fake_worker import FakeWorker, Refusal, hangs_midway, last, refuses, sent, token, whole
from tests.wire.sidecar import Call, Reply, Sidecar, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

COMPLETIONS = "/v1/completions"
ORIGIN = "https://chat.example.com"
TIMEOUT = 30


def shown(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(TIMEOUT):
        while not condition():  # noqa: ASYNC110  # of things that know of no event
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
async def test_nothing_without_a_key(method: str, path: str) -> None:
    worker = FakeWorker()
    async with running(worker, api_key=("right",)) as sidecar:
        for headers in ({}, shown("wrong"), {"authorization": "right"}):
            reply = await sidecar.send(method, path, {"prompt": "x"}, headers)
            assert (reply.status, reply.error["code"]) == (401, "invalid_api_key")
            assert reply.headers["www-authenticate"] == "Bearer"
            assert "wrong" not in str(reply)
        assert (await sidecar.send(method, path, {"prompt": "x"}, shown("right"))).status != 401


async def test_with_a_key_and_without_one_for_probes() -> None:
    async with running(FakeWorker(), api_key=("a", "b")) as sidecar:
        for key in ("a", "b"):
            assert (await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, shown(key))).status == 200
        for path in ("/livez", "/readyz", "/health"):
            assert (await sidecar.get(path)).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_the_backend_learns_the_caller_but_no_key(stream: bool, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("team-a: sk-one\nteam-a: sk-two\nsk-three\n")
    worker = FakeWorker()
    async with running(worker, api_key_file=keys) as sidecar:
        for key in ("sk-one", "sk-two", "sk-three"):
            await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "stream": stream}, shown(key))
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
    # As Kubernetes mounts a secret: keys → ..data/keys, ..data → ..1/, and `..data` is swapped.
    link, data = tmp_path / "keys", tmp_path / "..data"
    link.symlink_to("..data/keys")

    def put(version: str, content: bytes | None) -> None:
        (tmp_path / version).mkdir()
        if content is not None:
            (tmp_path / version / "keys").write_bytes(content)
        (tmp_path / "new").symlink_to(version)
        os.replace(tmp_path / "new", data)

    put("..1", b"alice: one\n")
    async with running(FakeWorker(), api_key=("always",), api_key_file=link) as sidecar:

        async def status(key: str) -> int:
            return (await sidecar.send("GET", "/v1/models", headers=shown(key))).status

        assert [await status(key) for key in ("always", "one", "two")] == [200, 200, 401]
        with caplog.at_level(logging.INFO):
            put("..2", b"alice: two\n")
            await until(lambda: "read again" in caplog.text)
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
                put(f"..bad{i}", bad)
                await until(lambda problem=problem: problem in caplog.text)  # type: ignore[misc]
                assert len([one for one in caplog.records if one.levelname == "ERROR"]) == i + 1
                assert [await status(key) for key in ("always", "one", "two")] == [200, 401, 200]
            put("..3", b"three")
            await until(lambda: caplog.text.count("read again") == 2)
            assert [await status(key) for key in ("two", "three")] == [401, 200]
    assert "secret" not in caplog.text


# ---- What one may ask for


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_above_a_limit_names_its_field(stream: bool) -> None:
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
        assert (reply.status, reply.error["param"]) == (400, "messages")  # with what the template adds
        assert worker.requests == []
        assert (await sidecar.chat(stream=stream)).status == 200
        assert sent(worker.requests[0])["max_tokens"] == [10]


# ---- How many at a time


class Held:
    """Answers when told to, one after the other."""

    def __init__(self) -> None:
        self.may = asyncio.Semaphore(0)

    async def infer(self, request: ModelInferRequest) -> ModelInferResponse:
        await self.may.acquire()
        return whole(sent(request)["prompt"][0].decode())

    async def stream(self, _: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield token("one")
        await self.may.acquire()
        yield last("two")

    def worker(self) -> FakeWorker:
        return FakeWorker(self.infer, self.stream)


def prompts(worker: FakeWorker) -> list[str]:
    return [sent(request)["prompt"][0].decode() for request in worker.requests]


def ask(sidecar: Sidecar, prompt: str, *, key: str = "a", stream: bool = False) -> Call:
    return sidecar.start("POST", COMPLETIONS, {"prompt": prompt, "stream": stream}, shown(key))


async def replied(call: Call) -> Reply:
    await asyncio.wait_for(call.task, TIMEOUT)
    return call.reply


@pytest.mark.parametrize("stream", [False, True])
async def test_too_many_at_a_time(stream: bool) -> None:
    held = Held()
    worker = held.worker()
    async with running(worker, max_concurrency=2, max_queue=1) as sidecar:
        calls = []
        for i in range(3):
            calls.append(ask(sidecar, str(i), stream=stream))
            await until(lambda n=i: len(worker.requests) == min(n + 1, 2))  # type: ignore[misc]
        refused = await replied(ask(sidecar, "3", stream=stream))
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
        assert (await replied(ask(sidecar, "4", stream=stream))).status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_flood_of_one_key_does_not_starve_another(stream: bool) -> None:
    held = Held()
    worker = held.worker()
    async with running(worker, max_concurrency=1, max_queue=4, api_key=("a", "b")) as sidecar:
        flood = [ask(sidecar, f"a{i}", stream=stream) for i in range(5)]
        await until(lambda: len(worker.requests) == 1)
        other = [ask(sidecar, f"b{i}", key="b", stream=stream) for i in range(2)]
        dropped = [await replied(call) for call in flood[3:]]  # for b's
        assert [reply.error["code"] for reply in dropped] == ["server_overloaded"] * 2
        for n in range(5):
            await until(lambda n=n: len(worker.requests) == n + 1)  # type: ignore[misc]
            held.may.release()
        assert [(await replied(call)).status for call in flood[:3] + other] == [200] * 5
    assert prompts(worker) == ["a0", "b0", "a1", "b1", "a2"]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_goes_away_leaves_the_queue(stream: bool) -> None:
    held = Held()
    worker = held.worker()
    async with running(worker, max_concurrency=1, max_queue=1) as sidecar:
        first = ask(sidecar, "first", stream=stream)
        await until(lambda: len(worker.requests) == 1)
        gone = ask(sidecar, "gone", stream=stream)
        await asyncio.sleep(0.1)
        gone.disconnect()
        await asyncio.wait_for(gone.task, TIMEOUT)
        waits = ask(sidecar, "waits", stream=stream)
        first.disconnect()  # one that runs, too
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
        held.may.release()
        assert (await replied(waits)).status == 200
    assert prompts(worker) == ["first", "waits"]


@pytest.mark.parametrize("stream", [False, True])
async def test_who_has_waited_too_long_is_told_and_costs_nothing(stream: bool) -> None:
    held = Held()
    worker = held.worker()
    limits: dict[str, Any] = {"max_concurrency": 1, "max_queue": 5, "queue_timeout": 0.2, "tokens_per_minute": 10**6}
    async with running(worker, **limits) as sidecar:
        sidecar.app.gate.clock = lambda: 1e6  # nothing flows back
        first = ask(sidecar, "first", stream=stream)
        await until(lambda: len(worker.requests) == 1)
        late = await replied(ask(sidecar, "late", stream=stream))
        assert (late.status, late.error["type"], late.error["code"]) == (429, "rate_limit_error", "server_overloaded")
        assert late.headers["retry-after"] == "1"
        again = await replied(ask(sidecar, "late", stream=stream))
        tokens = "x-ratelimit-remaining-tokens"
        assert again.headers[tokens] == late.headers[tokens], "what the one before had set aside is back"
        assert sidecar.app.gate.admission.waiting == 0
        for _ in range(2):
            held.may.release()
        assert (await replied(first)).status == 200
        assert (await replied(ask(sidecar, "now", stream=stream))).status == 200
    assert prompts(worker) == ["first", "now"]


async def test_who_gets_a_place_in_time_is_not_disturbed_later() -> None:
    held = Held()
    async with running(held.worker(), max_concurrency=1, queue_timeout=0.3) as sidecar:
        calls = [ask(sidecar, str(i), stream=True) for i in range(2)]
        await asyncio.sleep(0.1)
        held.may.release()
        assert (await replied(calls[0])).status == 200
        await asyncio.sleep(0.5)
        held.may.release()
        assert "".join(event["choices"][0]["text"] for event in (await replied(calls[1])).events) == "onetwo"


async def test_the_bodies_of_all_requests_have_a_limit_together() -> None:
    held = Held()
    worker = held.worker()
    async with running(worker, max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        first = ask(sidecar, "x" * 500)
        await until(lambda: len(worker.requests) == 1)
        for path in (COMPLETIONS, "/v1/embeddings", "/tiny/completions"):
            refused = await sidecar.send("POST", path, {"prompt": "x" * 500})
            assert (refused.status, refused.error["code"]) == (429, "server_overloaded")
            assert refused.headers["retry-after"] == "1"
        second = ask(sidecar, "small", stream=True)
        held.may.release()
        held.may.release()
        assert [(await replied(call)).status for call in (first, second)] == [200, 200]
        held.may.release()
        assert (await sidecar.complete(prompt="x" * 900)).status == 200
        assert (await sidecar.complete(prompt="x" * 2000)).status == 413
        gone = ask(sidecar, "x" * 500)
        await until(lambda: sidecar.app.gate.held > 500)
        gone.disconnect()
        await asyncio.wait_for(gone.task, TIMEOUT)
        assert sidecar.app.gate.held == 0


async def test_who_sends_no_body_has_no_part_in_what_others_may_hold() -> None:
    held = Held()
    async with running(held.worker(), api_key=("a", "b"), max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        assert (await sidecar.send("POST", COMPLETIONS, b"", shown("b"))).status == 400
        assert not sidecar.app.gate._held_by


async def test_who_holds_little_is_not_refused_for_what_another_one_holds() -> None:
    held = Held()
    worker = held.worker()
    async with running(worker, api_key=("a", "b"), max_body_bytes=1000, max_inflight_body_bytes=1000) as sidecar:
        first = ask(sidecar, "x" * 800, key="a")
        await until(lambda: len(worker.requests) == 1)
        assert (await replied(ask(sidecar, "x" * 200, key="a"))).status == 429
        second = ask(sidecar, "x" * 200, key="b")
        held.may.release()
        held.may.release()
        assert [(await replied(call)).status for call in (first, second)] == [200, 200]
        assert sidecar.app.gate.held == 0


# ---- How fast


async def test_requests_a_minute() -> None:
    async with running(FakeWorker(), requests_per_minute=3, api_key=("a", "b")) as sidecar:
        for remaining in (2, 1, 0):
            path = COMPLETIONS if remaining else "/tiny/completions"
            reply = await sidecar.send("POST", path, {"prompt": "x", "stream": remaining == 1}, shown("a"))
            assert reply.status == 200
            assert reply.headers["x-ratelimit-limit-requests"] == "3"
            assert reply.headers["x-ratelimit-remaining-requests"] == str(remaining)
            assert "x-ratelimit-limit-tokens" not in reply.headers
        for path in (COMPLETIONS, "/v1/embeddings"):
            reply = await sidecar.send("POST", path, {"prompt": "x"}, shown("a"))
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
        assert 18 <= int(reply.headers["retry-after"]) <= 20
        assert reply.headers["x-ratelimit-remaining-requests"] == "0"
        assert reply.headers["x-ratelimit-reset-requests"].endswith("s")
        assert (await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, shown("b"))).status == 200
        assert (await sidecar.send("GET", "/v1/models", headers=shown("a"))).status == 200


async def used(sidecar: Sidecar, call: Callable[[], Any]) -> int:
    """Tokens that a request has cost, by the next one's headers; that one itself costs nothing: it is refused."""
    sidecar.app.gate.clock = lambda: 1e6  # nothing flows back
    before = int((await sidecar.complete(prompt=[])).headers["x-ratelimit-remaining-requests"])
    await call()
    reply = await sidecar.send("POST", "/detokenize", {"tokens": [1]})
    assert before - int(reply.headers["x-ratelimit-remaining-requests"]) >= 2
    return 10**6 - int(reply.headers["x-ratelimit-remaining-tokens"])


RATES: dict[str, Any] = {"requests_per_minute": 1000, "tokens_per_minute": 10**6}


@pytest.mark.parametrize("stream", [False, True])
async def test_tokens_are_what_the_backend_counted(stream: bool) -> None:
    # Whole answers of the fake worker have 3 tokens of prompt and 2 of each choice.
    async with running(FakeWorker(), **RATES) as sidecar:
        cost = await used(sidecar, lambda: sidecar.complete(prompt=["x", "y"], n=2, max_tokens=1000, stream=stream))
    assert cost == 2 * (3 + 2 * 2) + ESTIMATE


ESTIMATE = 1
"""Reserved for the request that reads the headers: its body has one token id."""


@pytest.mark.parametrize("stream", [False, True])
async def test_what_failed_costs_nothing(stream: bool) -> None:
    async def fails(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        raise Refusal("INTERNAL", "no")
        yield whole()

    worker = FakeWorker(refuses(Refusal("INTERNAL", "no")), fails)
    async with running(worker, **RATES) as sidecar:
        assert await used(sidecar, lambda: sidecar.complete(prompt="x" * 400, stream=stream)) == ESTIMATE


async def test_a_stream_that_is_cut_off_costs_what_was_delivered() -> None:
    async with running(FakeWorker(stream=hangs_midway), **RATES) as sidecar:

        async def cut_off() -> None:
            call = sidecar.start("POST", COMPLETIONS, {"prompt": "x" * 370, "max_tokens": 9999, "stream": True})
            await asyncio.wait_for(call.until(b"one"), TIMEOUT)
            reserved = (await sidecar.send("POST", "/detokenize", {"tokens": [1]})).headers
            assert int(reserved["x-ratelimit-remaining-tokens"]) < 10**6 - 9999
            call.disconnect()
            await asyncio.wait_for(call.task, TIMEOUT)

        cost = await used(sidecar, cut_off)
    assert 100 + 1 <= cost - ESTIMATE <= 110 + 1


async def test_tokens_a_minute() -> None:
    async with running(FakeWorker(), tokens_per_minute=1000) as sidecar:
        assert (await sidecar.complete(prompt="x", max_tokens=600)).status == 200
        assert (await sidecar.complete(prompt="x", max_tokens=600)).status == 200  # 5 were used of the first 600
    held = Held()
    async with running(held.worker(), tokens_per_minute=1000) as sidecar:
        first = sidecar.start("POST", COMPLETIONS, {"prompt": "x", "max_tokens": 600})
        await asyncio.sleep(0.1)
        for stream in (False, True):
            reply = await sidecar.complete(prompt="x", max_tokens=600, stream=stream)
            assert (reply.status, reply.error["code"]) == (429, "rate_limit_exceeded")
            assert "1000 tokens a minute" in reply.error["message"]
            assert 0 < int(reply.headers["retry-after"]) <= 15
            assert int(reply.headers["x-ratelimit-remaining-tokens"]) < 600
        embedding = await sidecar.send("POST", "/v1/embeddings", {"input": "x" * 2400})
        assert (embedding.status, embedding.error["code"]) == (429, "rate_limit_exceeded")
        held.may.release()
        assert (await replied(first)).status == 200


# ---- Browsers


async def test_a_page_of_an_allowed_origin() -> None:
    async with running(FakeWorker(), cors_origin=(ORIGIN,), api_key=("a",)) as sidecar:
        asked = {
            "origin": ORIGIN,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        preflight = await sidecar.send("OPTIONS", COMPLETIONS, headers=asked)
        assert preflight.status == 204
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        told = []
        for stream in (False, True):
            headers = {"origin": ORIGIN, **shown("a")}
            told.append(await sidecar.send("POST", COMPLETIONS, {"prompt": "x", "stream": stream}, headers))
            told.append(await sidecar.send("POST", COMPLETIONS, {"prompt": 3, "stream": stream}, headers))
        told.append(await sidecar.send("GET", "/v1/models", headers={"origin": ORIGIN, **shown("a")}))
        told.append(await sidecar.send("GET", "/nowhere", headers={"origin": ORIGIN, **shown("a")}))
        told.append(await sidecar.send("GET", "/nowhere", headers={"origin": ORIGIN}))
        assert [reply.status for reply in told] == [200, 400, 200, 400, 200, 404, 401]
        for reply in (preflight, *told):
            assert reply.headers["access-control-allow-origin"] == ORIGIN
            assert reply.headers["vary"] == "Origin"


async def test_other_pages_are_told_nothing() -> None:
    asked = {"origin": "https://evil.example.com", "access-control-request-method": "POST"}
    for origins in ((), (ORIGIN,)):
        async with running(FakeWorker(), cors_origin=origins) as sidecar:
            replies = [
                await sidecar.send("OPTIONS", COMPLETIONS, headers=asked),
                await sidecar.send("POST", COMPLETIONS, {"prompt": "x"}, {"origin": "https://evil.example.com"}),
            ]
        assert [reply.status for reply in replies] == [405, 200]
        assert not any(name.startswith("access-control") for reply in replies for name in reply.headers)
