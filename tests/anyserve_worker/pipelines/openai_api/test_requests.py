"""Requests to an upstream with OpenAI's API, its errors, and further attempts."""

import asyncio
import gzip
import logging
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker import __version__
from anyserve_worker.pipelines.core.errors import (
    InvalidInput,
    PipelineError,
    TooManyRequests,
    UpstreamAway,
    UpstreamFailed,
)
from anyserve_worker.pipelines.openai_api import load
from anyserve_worker.pipelines.openai_api.request import upstream_body
from anyserve_worker.pipelines.upstream.client import Target, UpstreamClient
from tests.anyserve_worker.pipelines.answering import chat, collect, folder, running, summary
from tests.anyserve_worker.pipelines.scripted_server import Call, Script, scripted_server

ANSWER = {"choices": [{"message": {"content": "Hello"}, "finish_reason": "stop"}]}
KEY = "sk-secret-0123456789abcdef"


async def reply(call: Call) -> None:
    await call.reply(ANSWER)


async def error_of(script: Script, **settings: Any) -> PipelineError:
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 0, **settings}))
        async with running(pipeline):
            with pytest.raises(PipelineError) as caught:
                await collect(pipeline, chat())
            return caught.value


def test_the_body_is_the_clients_with_the_upstreams_model() -> None:
    request = chat(temperature=0, user="me", n=None, stream_options={"include_usage": False}, logprobs=False)
    messages = [{"role": "user", "content": "Hi"}]
    expected = {"model": "up", "messages": messages, "stream": False, "temperature": 0, "user": "me"}
    assert upstream_body(request, "up", with_usage=True) == expected
    request.body["stream"] = True
    assert upstream_body(request, "up", with_usage=True)["stream_options"] == {"include_usage": True}
    assert "stream_options" not in upstream_body(request, "up", with_usage=False)


@pytest.mark.parametrize(
    ("field", "value"), [("logprobs", True), ("top_logprobs", 2), ("audio", {"voice": "x"}), ("modalities", ["audio"])]
)
def test_fields_that_no_event_can_answer_are_refused(field: str, value: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        upstream_body(chat(**{field: value}), "up", with_usage=True)
    assert caught.value.field == field


async def test_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UP_KEY", f" {KEY}\n")
    monkeypatch.setenv("UP_ORG", "org-1")
    settings = {"api_key": "$UP_KEY", "headers": {"OpenAI-Organization": "$UP_ORG", "X-Team": "a", "X-None": "$NONE"}}
    headers = {"x-request-id": "r1", "traceparent": "00-1-2-01", "authorization": "Bearer theirs", "cookie": "c=1"}
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": f"{server.url}/v1/", **settings}))
        async with running(pipeline):
            assert summary(await collect(pipeline, chat(headers=headers))).text == "Hello"
    (call,) = server.calls
    assert (call.method, call.path) == ("POST", "/v1/chat/completions")
    assert server.checks[0].path == "/v1/models"
    assert server.checks[0].headers["authorization"] == f"Bearer {KEY}"
    names = {"host", "content-length", "connection", "accept"}
    assert {name: value for name, value in call.headers.items() if name not in names} == {
        "authorization": f"Bearer {KEY}",
        "openai-organization": "org-1",
        "x-team": "a",
        "x-request-id": "r1",
        "traceparent": "00-1-2-01",
        "content-type": "application/json",
        "accept-encoding": "identity",
        "user-agent": f"anyserve/{__version__}",
    }


@pytest.mark.parametrize("value", ["", None])
async def test_an_empty_key_means_no_header(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("UP_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("UP_KEY", value)
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": server.url, "api_key": "$UP_KEY"}))
        async with running(pipeline):
            await collect(pipeline, chat())
    assert "authorization" not in server.calls[0].headers


async def test_the_file_of_a_key_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("first-key\n")
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": server.url, "api_key_file": "key"}, tmp_path))
        async with running(pipeline):
            await collect(pipeline, chat())
            file.write_text("another-key\n")
            await collect(pipeline, chat())
            file.unlink()
            await collect(pipeline, chat())
            file.write_text("two\nlines")
            with pytest.raises(UpstreamFailed, match="no usable key"):
                await collect(pipeline, chat())
    keys = [call.headers["authorization"] for call in server.calls]
    assert keys == ["Bearer first-key", "Bearer another-key", "Bearer another-key"]


async def test_cookies_of_the_upstream_are_not_kept() -> None:
    async def script(call: Call) -> None:
        await call.reply(ANSWER, headers=("Set-Cookie: session=1; Path=/",))

    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            await collect(pipeline, chat())
            await collect(pipeline, chat())
    assert "cookie" not in server.calls[1].headers


async def test_a_server_that_closes_its_connections_unannounced() -> None:
    async def script(call: Call) -> None:
        await call.reply(ANSWER)
        asyncio.get_running_loop().call_later(0.002, call.writer.transport.abort)

    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 0}))
        async with running(pipeline):
            for _ in range(50):
                assert summary(await collect(pipeline, chat())).text == "Hello"


async def test_redirects_are_errors_since_they_would_get_the_key() -> None:
    error = await error_of(lambda call: call.reply("", 307, headers=("Location: http://127.0.0.1:1/",)))
    assert (error.status, str(error)) == ("UNKNOWN", "The upstream failed (HTTP 307).")


STATUSES = {
    400: (InvalidInput, "messages.0.content", "too long"),
    422: (InvalidInput, "messages.0.content", "too long"),
    401: (UpstreamFailed, "", "The upstream refused this server's access (HTTP 401)."),
    402: (UpstreamFailed, "", "The upstream refused this server's access (HTTP 402)."),
    403: (UpstreamFailed, "", "The upstream refused this server's access (HTTP 403)."),
    404: (UpstreamFailed, "", "The upstream failed (HTTP 404): too long"),
    413: (UpstreamFailed, "", "The upstream failed (HTTP 413): too long"),
    429: (TooManyRequests, "", "The upstream takes no more requests now (HTTP 429): too long"),
    500: (UpstreamFailed, "", "The upstream failed (HTTP 500): too long"),
    502: (UpstreamFailed, "", "The upstream failed (HTTP 502): too long"),
    503: (UpstreamAway, "", "The upstream is overloaded or away (HTTP 503): too long"),
}


@pytest.mark.parametrize("status", STATUSES)
async def test_errors_by_status(status: int) -> None:
    body = {"error": {"message": "too long", "param": "messages.0.content", "type": "x", "code": None}}
    error = await error_of(lambda call: call.reply(body, status, headers=("Retry-After: 7",)))
    kind, field, message = STATUSES[status]
    assert (type(error), error.field, str(error)) == (kind, field, message)
    assert error.retry_after == (7 if status in (429, 503) else None)


async def test_a_compressed_error_is_read_in_part() -> None:
    async def script(call: Call) -> None:
        body = gzip.compress(b"x" * (64 << 20))
        lines = ("HTTP/1.1 500 X", "Content-Encoding: gzip", f"Content-Length: {len(body)}")
        call.writer.write("\r\n".join((*lines, "", "")).encode() + body)

    async with scripted_server(script) as server:
        client = UpstreamClient(Target(server.url))
        async with client.post("/", b"{}", {}, streams=True) as response:
            assert await response.read_all(1000) == b"x" * 1000
        await client.close()


async def test_an_error_within_a_stream_has_its_status() -> None:
    piece = 'data: {"error": {"message": "Slow down", "code": 429}}\n\n'
    assert type(await error_of(lambda call: call.stream(piece))) is UpstreamFailed  # the request isn't streamed
    async with scripted_server(lambda call: call.stream(piece)) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            with pytest.raises(TooManyRequests, match="Slow down"):
                await collect(pipeline, chat(stream=True))


@pytest.mark.parametrize("where", ["message", "param", "stream"])
async def test_no_error_and_no_log_has_secrets(
    where: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(call: Call) -> None:
        text = f"bad key {KEY} ({KEY[:12]}****), http://me:pw@host/, Authorization: Bearer {KEY}, team {team}"
        if where == "stream":
            await call.stream(f'data: {{"error": {{"message": "{text}"}}}}\n\n')
        else:
            await call.reply({"error": {"message": text, "param": KEY if where == "param" else None}}, 400)

    team = "a-secret-team"
    monkeypatch.setenv("UP_KEY", KEY)
    monkeypatch.setenv("UP_TEAM", team)
    caplog.set_level(logging.DEBUG)
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "api_key": "$UP_KEY", "headers": {"X-Team": "$UP_TEAM"}}))
        async with running(pipeline):
            with pytest.raises(PipelineError) as caught:
                await collect(pipeline, chat(stream=where == "stream"))
    texts = [
        str(caught.value),
        caught.value.field,
        *(record.getMessage() for record in caplog.records if record.name.startswith("anyserve")),
    ]
    for secret in (KEY[:12], "me:pw", team):
        assert not [text for text in texts if secret in text], secret
    assert "bad key [hidden]" in str(caught.value)
    assert caught.value.__cause__ is None


async def test_busy_upstreams_are_tried_again_if_they_name_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(call: Call) -> None:
        if len(server.calls) < 3:
            await call.reply({}, (429, 503)[len(server.calls) - 1], headers=("Retry-After: 0",))
        else:
            await call.reply(ANSWER)

    monkeypatch.setattr("anyserve_worker.pipelines.upstream.client.FIRST_PAUSE", 0.01)
    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 2}))
        async with running(pipeline):
            assert summary(await collect(pipeline, chat())).text == "Hello"
    assert len(server.calls) == 3


@pytest.mark.parametrize(
    ("status", "header"),
    [
        (429, "X: y"),
        (429, "Retry-After: 60"),
        (503, "Retry-After: soon"),
        (500, "Retry-After: 0"),
        (404, "Retry-After: 0"),
    ],
)
async def test_other_errors_are_not_tried_again(status: int, header: str) -> None:
    async with scripted_server(lambda call: call.reply({}, status, headers=(header,))) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 5}))
        async with running(pipeline):
            with pytest.raises(PipelineError):
                await collect(pipeline, chat())
    assert len(server.calls) == 1


async def test_an_upstream_that_restarts_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyserve_worker.pipelines.upstream.client.FIRST_PAUSE", 0.05)
    async with scripted_server(reply) as server:
        port = server.port
    for retries in (0, 4):
        pipeline = load(folder({"base_url": f"http://localhost:{port}", "retries": retries}))
        async with running(pipeline) as reports:
            assert not reports[0][0].ready
            task = asyncio.create_task(collect(pipeline, chat()))
            await asyncio.sleep(0.02)
            if retries:
                async with scripted_server(reply, port=port):
                    assert summary(await task).text == "Hello"
            else:
                with pytest.raises(UpstreamAway, match="can't be reached"):
                    await task


async def test_counts_are_requested_until_the_upstream_refuses_to() -> None:
    async def script(call: Call) -> None:
        if "stream_options" in call.json:
            await call.reply({"error": "unknown field"}, 400)
        elif call.json["messages"][0]["content"] == "bad":
            await call.reply({"error": "bad"}, 400)
        else:
            await call.stream('data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n')

    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            for text, n_requests in (("bad", 2), ("good", 2), ("good", 1), ("bad", 1)):
                server.calls.clear()
                if text == "bad":
                    with pytest.raises(InvalidInput):
                        await collect(pipeline, chat(text, stream=True))
                else:
                    await collect(pipeline, chat(text, stream=True))
                assert len(server.calls) == n_requests


async def test_a_bad_request_is_sent_once_to_an_upstream_that_counts() -> None:
    async def script(call: Call) -> None:
        if call.json["messages"][0]["content"] == "bad":
            await call.reply({"error": "bad"}, 400)
        else:
            await call.stream('data: {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}\n\n')

    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            await collect(pipeline, chat(stream=True))
            with pytest.raises(InvalidInput, match="bad"):
                await collect(pipeline, chat("bad", stream=True))
    assert len(server.calls) == 2


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_localhost_is_either_family(host: str) -> None:
    async with scripted_server(reply, host) as server:
        pipeline = load(folder({"base_url": f"http://localhost:{server.port}", "retries": 0}))
        async with running(pipeline):
            assert summary(await collect(pipeline, chat())).text == "Hello"


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_proxies_of_the_environment_are_not_used_for_this_machine(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("http_proxy", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": f"http://{name}:{server.port}"}))
        async with running(pipeline):
            assert summary(await collect(pipeline, chat())).text == "Hello"


async def test_proxies_of_the_environment_are_used_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    async with scripted_server(reply) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        pipeline = load(folder({"base_url": "http://upstream.invalid/v1"}))
        async with running(pipeline):
            assert summary(await collect(pipeline, chat())).text == "Hello"
    assert proxy.calls[0].path == "http://upstream.invalid/v1/chat/completions"


async def test_many_requests_at_once() -> None:
    async def script(call: Call) -> None:
        await asyncio.sleep(0.02)
        text = call.json["messages"][0]["content"]
        await call.reply({"choices": [{"message": {"content": text}, "finish_reason": "stop"}]})

    async with scripted_server(script) as server:
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline):
            results = await asyncio.gather(*(collect(pipeline, chat(str(i))) for i in range(150)))
    assert [summary(events).text for events in results] == [str(i) for i in range(150)]
