"""Rules that hold for every request, whatever its endpoint."""

import json
import logging
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openai_server.api import schemas
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.examples import examples
from tests.wire.fake_worker import FakeWorker, inputs_of, whole
from tests.wire.sidecar import running

ENDPOINTS = [
    *("/v1/completions", "/v1/chat/completions"),
    *("/v1/embeddings", "/v1/rerank", "/tokenize", "/detokenize", "/completions", "/x/chat/completions"),
]


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/"), ("GET", "/v1"), ("POST", "/v1/audio/speech"), ("GET", "/v1/completions/x")]
)
async def test_an_unknown_path_is_a_404(method: str, path: str) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send(method, path)
    assert (reply.status, reply.error["type"]) == (404, "invalid_request_error")


GENERATING = ("chat/completions", "completions", "embeddings")
NO_PATHS = [
    *(
        ("POST", f"{prefix}{name}")
        for name in (*GENERATING, "rerank", "tokenize")
        for prefix in (
            "/v1/v1/",
            "//v1/",
            "/v1//",
            "//",
            "///",
            "/v1/v1/v1/",
            "/api/v1/",
            "/v1/org/name/",
            "/v1/engines//",
        )
    ),
    *(("POST", f"/v1/{name}/") for name in (*GENERATING, "rerank")),
    *(("POST", f"/{prefix}/v1/{name}") for name in GENERATING for prefix in ("org/name", "azure", "openai/tiny")),
    *(("POST", f"{prefix}/tiny//{name}") for name in GENERATING for prefix in ("", "/v1/engines", "/engines")),
    *(("POST", f"{prefix}//tiny/{name}") for name in GENERATING for prefix in ("", "/v1/engines", "/engines")),
    *(("GET", path) for path in ("/v1/models/", "/models/", "/v1//models", "//v1/models", "/v1/v1/models", "//models")),
    *(("GET", path) for path in ("/v1/models//tiny", "/v1/models/tiny/", "/v1/models//", "/v1//models/tiny")),
    *(("GET", path) for path in ("/livez/", "//livez", "/health/", "/v1/health", "/openapi.json/")),
]


@pytest.mark.parametrize(("method", "path"), NO_PATHS)
async def test_an_unknown_path_is_named_and_never_becomes_a_model(method: str, path: str) -> None:
    async with running(FakeWorker(models=["tiny", "org/name"])) as sidecar:
        reply = await sidecar.send(method, path, {"messages": [], "prompt": "x", "input": "x", "model": "tiny"})
    assert (reply.status, reply.error["param"], reply.error["code"]) == (404, None, None)
    assert reply.error["message"] == f"Not Found: {method} {path}"


@pytest.mark.parametrize("prefix", ["/v1/engines", "/engines", ""])
async def test_a_model_whose_name_has_slashes_is_found_by_its_path(prefix: str) -> None:
    async with running(FakeWorker(models=["tiny", "org/name", "org/v1.5/v1x"])) as sidecar:
        for model in ("org/name", "org/v1.5/v1x", "tiny"):
            assert (await sidecar.send("POST", f"{prefix}/{model}/completions", {"prompt": "x"})).json["model"] == model
            assert (await sidecar.get(f"/v1/models/{model}")).json["id"] == model
            assert (await sidecar.get(f"{prefix}/{model}/completions")).headers["allow"] == "POST"
        unknown = await sidecar.send("POST", f"{prefix}/org/other/completions", {"prompt": "x"})
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/completions", {"POST"}),
        ("PUT", "/v1/chat/completions", {"POST"}),
        ("POST", "/v1/models", {"GET", "HEAD"}),
        ("DELETE", "/health", {"GET", "HEAD"}),
    ],
)
async def test_a_method_that_is_not_allowed_is_a_405(method: str, path: str, allow: set[str]) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send(method, path)
    assert (reply.status, reply.error["type"]) == (405, "invalid_request_error")
    assert set(reply.headers["allow"].split(", ")) == allow


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize("announced", [True, False])
async def test_a_body_that_is_too_large_is_a_413(path: str, announced: bool) -> None:
    headers = {"content-length": "1001"} if announced else {}
    async with running(FakeWorker(), max_body_bytes=1000) as sidecar:
        reply = await sidecar.send("POST", path, b"{" + b" " * 999 + b"}", headers)
    assert (reply.status, reply.error["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("path", ENDPOINTS)
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"3", b'"x"', b"\xff", b"[" * 3000, b'{"prompt": NaN}', b'{"prompt": "\\ud800"}'],
)
async def test_a_body_that_is_no_json_object_is_refused(path: str, body: bytes) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send("POST", path, body)
    assert (reply.status, reply.error["code"]) == (400, "invalid_json")


async def test_readiness_follows_the_backend_and_the_drain_but_liveness_does_not() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        assert [(await sidecar.get(path)).status for path in ("/livez", "/readyz", "/health")] == [200, 200, 200]
        worker.ready = False
        assert [(await sidecar.get(path)).status for path in ("/livez", "/readyz", "/health")] == [200, 503, 503]
        worker.ready = True
        sidecar.app.services.draining = True
        assert [(await sidecar.get(path)).status for path in ("/livez", "/readyz", "/health")] == [200, 503, 503]
        assert (await sidecar.complete(prompt="x")).status == 200  # requests during the drain are still served


async def test_a_bug_is_logged_and_not_shown_to_the_client(caplog: pytest.LogCaptureFixture) -> None:
    async with running(FakeWorker(), template_timeout="a string, which no budget can add up") as sidecar:
        with caplog.at_level(logging.ERROR):
            reply = await sidecar.chat()
    assert (reply.status, reply.error["type"], reply.error["code"]) == (500, "server_error", "internal_error")
    assert "TypeError" not in reply.body.decode()
    assert "TypeError" in caplog.text
    assert reply.headers["x-request-id"] in caplog.text


# ---- Arbitrary JSON

keys = st.sampled_from([*sorted(schemas.COMPLETION_FIELDS.mapped | schemas.CHAT_FIELDS.mapped), "user", "tools", "zzz"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"), max_size=8)
)
messages = st.lists(
    st.fixed_dictionaries(
        {},
        optional={
            "role": st.sampled_from([*schemas.MESSAGE_FIELDS, "robot"]) | scalars,
            "content": scalars
            | st.lists(st.fixed_dictionaries({}, optional={"type": st.just("text"), "text": scalars})),
            "name": scalars,
            "tool_calls": st.lists(scalars, max_size=2),
            "tool_call_id": scalars,
        },
    ),
    max_size=3,
)
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3))
bodies = st.dictionaries(keys, values | messages, max_size=5) | values


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(body=bodies, prompt=st.booleans())
async def test_any_json_is_answered_or_refused(body: Any, prompt: bool) -> None:
    async with running(FakeWorker(quiet)) as sidecar:
        for path, field, value in (
            (ENDPOINTS[0], "prompt", "x"),
            (ENDPOINTS[1], "messages", [{"role": "user", "content": "x"}]),
        ):
            full = {field: value, **body} if prompt and isinstance(body, dict) else body
            reply = await sidecar.send("POST", path, json.dumps(full).encode())
            if reply.status != 200:
                assert 400 <= reply.status < 500
                assert reply.error["type"] == "invalid_request_error"


async def quiet(request: ModelInferRequest) -> ModelInferResponse:
    return whole(*["x"] * inputs_of(request).get("n", [1])[0])
