"""The built-in mappings with servers that answer as the real ones do."""

import asyncio
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import (
    InvalidInput,
    PipelineError,
    SetupError,
    TimedOut,
    TooManyRequests,
    UpstreamAway,
    UpstreamFailed,
)
from anyserve_worker.pipelines.core.pipeline import Pipeline
from anyserve_worker.pipelines.http_api import load
from anyserve_worker.pipelines.http_api.mappings import builtin_names
from tests.anyserve_worker.pipelines.answering import abandon, chat, collect, folder, running, summary
from tests.anyserve_worker.pipelines.http_api.exchange import FIELDS, Api
from tests.anyserve_worker.pipelines.http_api.hosted_apis import GEMINI_ARRAY, HOSTED_APIS
from tests.anyserve_worker.pipelines.http_api.local_apis import LOCAL_APIS
from tests.anyserve_worker.pipelines.scripted_server import Call, scripted_server

APIS = {**LOCAL_APIS, **HOSTED_APIS}
EXCHANGES = {**APIS, "gemini (array)": GEMINI_ARRAY}
KEYS = ("OLLAMA", "LLAMA", "CO", "GEMINI", "ANTHROPIC", "KOBOLDCPP", "YOUR")


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*(f"{vendor}_API_KEY" for vendor in KEYS), "HF_TOKEN"):
        monkeypatch.setenv(name, "k-123")


def pipeline_of(name: str, url: str, **settings: Any) -> Pipeline:
    api = EXCHANGES[name]
    return load(folder({"use": name.split(" ")[0], "base_url": url, "model": "up/m", **api.settings, **settings}))


def request_of(api: Api, **fields: Any) -> Any:
    return chat(**{**(api.fields or FIELDS), **fields})


async def streamed(api: Api, pieces: list[str], call: Call) -> None:
    await call.stream(*pieces, type=api.type)


def test_each_mapping_is_tested() -> None:
    assert builtin_names() == sorted(APIS)


@pytest.mark.parametrize("name", EXCHANGES)
async def test_whole_answers(name: str) -> None:
    api = EXCHANGES[name]
    async with scripted_server(lambda call: call.reply(api.whole)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline) as reports:
            assert [(state.name, state.ready) for state in reports[0]] == [("model", True)]
            assert summary(await collect(pipeline, request_of(api))) == api.summary
    (call,) = server.calls
    assert (call.path, call.json) == (api.path, api.body)
    assert call.headers.get(api.key_header[0], "") == api.key_header[1]
    assert not [check for check in server.checks if "k-123" in str(check.headers)]


@pytest.mark.parametrize("name", EXCHANGES)
async def test_streams(name: str) -> None:
    api = EXCHANGES[name]
    async with scripted_server(lambda call: streamed(api, api.pieces, call)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            result = summary(await collect(pipeline, request_of(api, stream=True)))
    assert result == (api.stream_summary or api.summary)
    (call,) = server.calls
    assert (call.path, call.json) == (api.stream_path or api.path, api.body | api.stream_body)


@pytest.mark.parametrize("name", EXCHANGES)
async def test_texts_arrive_before_the_end(name: str) -> None:
    async def script(call: Call) -> None:
        await call.begin(type=api.type)
        for piece in api.pieces[:-1]:
            await call.send(piece)
        await asyncio.wait_for(begun.wait(), 5)
        await call.send(api.pieces[-1])
        await call.end()

    api, begun = EXCHANGES[name], asyncio.Event()
    async with scripted_server(script) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            async for _ in pipeline.answer(request_of(api, stream=True)):
                begun.set()


@pytest.mark.parametrize("name", [name for name, api in EXCHANGES.items() if not api.ends_by_eof])
async def test_a_stream_that_ends_early_is_an_error(name: str) -> None:
    api = EXCHANGES[name]
    # A last piece may only close an array: the finish reason is in the last with text.
    n_last = next(n for n, piece in enumerate(reversed(api.pieces), 1) if len(piece) > 2)
    if name in ("cohere_v2", "anthropic"):
        n_last = 2 if name == "anthropic" else 1
    async with scripted_server(lambda call: streamed(api, api.pieces[:-n_last], call)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed):
                await collect(pipeline, request_of(api, stream=True))


@pytest.mark.parametrize("name", EXCHANGES)
async def test_a_reset_is_an_error(name: str) -> None:
    async def script(call: Call) -> None:
        await call.begin(type=api.type)
        await call.send(api.pieces[0])
        await asyncio.sleep(0.02)
        call.reset()

    api = EXCHANGES[name]
    async with scripted_server(script) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed, match="connection broke"):
                await collect(pipeline, request_of(api, stream=True))


@pytest.mark.parametrize("name", [name for name, api in EXCHANGES.items() if api.error_piece])
async def test_errors_within_a_stream(name: str) -> None:
    api = EXCHANGES[name]
    pieces = [*api.pieces[:2], api.error_piece]
    async with scripted_server(lambda call: streamed(api, pieces, call)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed, match="boom"):
                await collect(pipeline, request_of(api, stream=True))


@pytest.mark.parametrize("name", EXCHANGES)
async def test_an_error_in_a_whole_answer(name: str) -> None:
    api = EXCHANGES[name]
    async with scripted_server(lambda call: call.reply(api.error)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed):
                await collect(pipeline, request_of(api))


STATUSES = {400: InvalidInput, 401: UpstreamFailed, 404: UpstreamFailed, 429: TooManyRequests, 500: UpstreamFailed}


@pytest.mark.parametrize("status", STATUSES)
@pytest.mark.parametrize("name", APIS)
async def test_errors_by_status(name: str, status: int) -> None:
    api = EXCHANGES[name]
    # A code in the body is more exact than the status, so the body has only the text.
    body = {"error": {"message": "boom"}} if "code" in str(api.error) or name == "anthropic" else api.error
    body = {"error": "boom"} if name == "tgi" else body
    async with scripted_server(lambda call: call.reply(body, status)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            for stream in (False, True):
                with pytest.raises(PipelineError) as caught:
                    await collect(pipeline, request_of(api, stream=stream))
                assert type(caught.value) is STATUSES[status]
                assert ("boom" in str(caught.value)) == (status != 401)


KINDS: list[tuple[str, int, Any, type[PipelineError]]] = [
    ("tgi", 422, {"error": "x", "error_type": "validation"}, InvalidInput),
    ("tgi", 429, {"error": "x", "error_type": "overloaded"}, TooManyRequests),
    ("tgi", 424, {"error": "x", "error_type": "generation"}, UpstreamFailed),
    ("koboldcpp", 503, {"detail": {"msg": "x", "type": "service_unavailable"}}, TooManyRequests),
    ("llamacpp", 503, {"error": {"code": 503, "message": "x", "type": "unavailable_error"}}, UpstreamAway),
    ("llamacpp", 400, {"error": {"code": 400, "message": "x", "type": "exceed_context_size_error"}}, InvalidInput),
    ("anthropic", 529, {"error": {"type": "overloaded_error", "message": "x"}}, UpstreamAway),
    ("anthropic", 413, {"error": {"type": "request_too_large", "message": "x"}}, InvalidInput),
    ("anthropic", 504, {"error": {"type": "timeout_error", "message": "x"}}, TimedOut),
    ("anthropic", 200, {"error": {"type": "overloaded_error", "message": "x"}}, UpstreamAway),
    ("anthropic", 200, {"error": {"type": "rate_limit_error", "message": "x"}}, TooManyRequests),
    ("gemini", 503, {"error": {"code": 503, "message": "x", "status": "UNAVAILABLE"}}, UpstreamAway),
    ("gemini", 429, [{"error": {"code": 429, "message": "x", "status": "RESOURCE_EXHAUSTED"}}], TooManyRequests),
    ("gemini", 200, {"error": {"code": 429, "message": "x"}}, TooManyRequests),
]


@pytest.mark.parametrize(("name", "status", "body", "kind"), KINDS)
async def test_kinds_of_errors(name: str, status: int, body: Any, kind: type[PipelineError]) -> None:
    async with scripted_server(lambda call: call.reply(body, status)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(PipelineError) as caught:
                await collect(pipeline, request_of(APIS[name]))
    assert type(caught.value) is kind


async def test_a_refused_key_of_gemini_is_not_the_clients_error() -> None:
    body = {"error": {"code": 400, "message": "API key not valid.", "details": [{"reason": "API_KEY_INVALID"}]}}
    async with scripted_server(lambda call: call.reply(body, 400)) as server:
        pipeline = pipeline_of("gemini", server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed, match="refused this server's access"):
                await collect(pipeline, request_of(APIS["gemini"]))


UNKNOWN_REASONS: dict[str, Any] = {
    "ollama": {"message": {"content": "a"}, "done": True, "done_reason": "unload"},
    "llamacpp": {"content": "a", "stop": True, "stop_type": "none"},
    "tgi": {"generated_text": "a", "details": {"finish_reason": "error"}},
    "koboldcpp": {"results": [{"text": "a", "finish_reason": "abort"}]},
    "cohere_v2": {"message": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": "ERROR"},
    "gemini": {"candidates": [{"content": {"parts": [{"text": "a"}]}, "finishReason": "MALFORMED_FUNCTION_CALL"}]},
    "anthropic": {"content": [{"type": "text", "text": "a"}], "stop_reason": "pause_turn"},
}


@pytest.mark.parametrize("name", UNKNOWN_REASONS)
async def test_an_unknown_finish_reason_is_an_error(name: str) -> None:
    async with scripted_server(lambda call: call.reply(UNKNOWN_REASONS[name])) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed, match="ended its answer with"):
                await collect(pipeline, request_of(APIS[name]))


@pytest.mark.parametrize("name", APIS)
@pytest.mark.parametrize("body", [{}, [], "text", {"unexpected": 1}])
async def test_an_answer_of_another_form_is_an_error(name: str, body: Any) -> None:
    async with scripted_server(lambda call: call.reply(body)) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            with pytest.raises(UpstreamFailed):
                await collect(pipeline, request_of(APIS[name]))


async def test_an_answer_that_gemini_blocks() -> None:
    body = {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 4}}
    async with scripted_server(lambda call: call.reply(body)) as server:
        pipeline = pipeline_of("gemini", server.url)
        async with running(pipeline):
            result = summary(await collect(pipeline, request_of(APIS["gemini"])))
    assert (result.text, result.finish) == ("", "content_filter")


async def test_the_array_of_tgi() -> None:
    body = [{"generated_text": "Hello", "details": {"finish_reason": "stop_sequence"}}]
    async with scripted_server(lambda call: call.reply(body)) as server:
        pipeline = pipeline_of("tgi", server.url, overrides={"request": {"path": "/"}})
        async with running(pipeline):
            result = summary(await collect(pipeline, request_of(APIS["tgi"])))
    assert (result.text, result.finish, server.calls[0].path) == ("Hello", "stop", "/")


@pytest.mark.parametrize("phase", ["whole", "before the first token", "within the stream"])
@pytest.mark.parametrize("name", EXCHANGES)
async def test_a_client_that_leaves_closes_the_connection(name: str, phase: str) -> None:
    async def script(call: Call) -> None:
        if phase != "whole":
            await call.begin(type=api.type)
        if phase == "within the stream":
            await call.send(api.pieces[0])
        reached.set()
        await call.until_closed()
        closed.set()

    api, reached, closed = EXCHANGES[name], asyncio.Event(), asyncio.Event()
    async with scripted_server(script) as server:
        pipeline = pipeline_of(name, server.url)
        async with running(pipeline):
            await abandon(pipeline, request_of(api, stream=phase != "whole"), reached)
            await asyncio.wait_for(closed.wait(), 5)


async def test_readiness_follows_the_check() -> None:
    async def script(call: Call) -> None:
        raise AssertionError

    async with scripted_server(script) as server:
        server.check_status = 503
        pipeline = pipeline_of("llamacpp", server.url)
        async with running(pipeline) as reports:
            assert [(state.ready, state.reason) for state in reports[0]] == [
                (False, "The upstream is not ready (HTTP 503).")
            ]
    assert server.checks[0].path == "/health"


@pytest.mark.parametrize("name", ["gemini", "anthropic", "cohere_v2"])
def test_a_key_that_the_api_requires(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for vendor in KEYS:
        monkeypatch.delenv(f"{vendor}_API_KEY")
    with pytest.raises(SetupError, match=r"requires a key: set [A-Z]+_API_KEY"):
        load(folder({"use": name}))


def test_the_example_takes_its_url_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SetupError, match="YOUR_API_BASE_URL is not set"):
        load(folder({"use": "example"}))
    monkeypatch.setenv("YOUR_API_BASE_URL", "http://127.0.0.1:9")
    assert load(folder({"use": "example"}))
