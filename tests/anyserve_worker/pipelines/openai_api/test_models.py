"""Which models of an upstream are served, and when they are ready."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from anyserve_worker.pipelines.core.errors import SetupError, UpstreamAway
from anyserve_worker.pipelines.core.pipeline import ModelState
from anyserve_worker.pipelines.openai_api import load
from anyserve_worker.pipelines.openai_api.model_names import ModelNames, listed_names
from anyserve_worker.pipelines.upstream import readiness
from tests.anyserve_worker.pipelines.answering import chat, collect, folder, running
from tests.anyserve_worker.pipelines.scripted_server import Call, scripted_server

LIST = ["meta/llama-3:8b", "gpt-5", "gpt-5-mini"]


async def reply(call: Call) -> None:
    await call.reply({"choices": [{"message": {"content": call.json["model"]}, "finish_reason": "stop"}]})


async def until(reports: list[Any], n_reports: int) -> None:
    async with asyncio.timeout(5):
        while len(reports) < n_reports:  # noqa: ASYNC110  # a list has no event
            await asyncio.sleep(0.01)


@pytest.fixture
def fast_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FIRST_PAUSE", 0.02)


@pytest.mark.parametrize(
    ("setting", "names"),
    [
        (None, {"model": "model"}),
        ("gpt-5", {"model": "gpt-5"}),
        ({"a": "gpt-5", "b": "x/y"}, {"a": "gpt-5", "b": "x/y"}),
        ("*", {name: name for name in LIST}),
        (["gpt*"], {"gpt-5": "gpt-5", "gpt-5-mini": "gpt-5-mini"}),
        (["other", "*mini"], {"other": "other", "gpt-5-mini": "gpt-5-mini"}),
    ],
)
def test_names(setting: Any, names: dict[str, str]) -> None:
    model_names = ModelNames(setting, "model")
    model_names.update(LIST)
    assert {name: model_names.upstream_name(name) for name in model_names.served} == names
    assert not set(model_names.served) & {"*", "gpt*"}


def test_models_that_are_not_listed_any_more_are_left_out() -> None:
    names = ModelNames(["fixed", "gpt*"], "model")
    names.update(LIST)
    names.update(["gpt-6"])
    assert names.served == ["fixed", "gpt-6"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"object": "list", "data": [{"id": "a/b:c"}, {"id": ""}, {"id": 7}, 7]}, ["a/b:c"]),
        ({"models": [{"name": "a"}, {"model": "b", "name": "c"}]}, ["a", "b"]),
        ([{"id": "a"}, "b"], ["a", "b"]),
        ({"data": [{"id": "a\nb"}, {"id": "\ud800"}, {"id": "x" * 257}, {"id": "a"}, {"id": "a"}]}, ["a"]),
        ({"data": [f"m{i}" for i in range(2001)]}, [f"m{i}" for i in range(2000)]),
        ({"error": "x"}, None),
        ("page", None),
    ],
)
def test_lists_of_models(body: Any, names: list[str] | None) -> None:
    assert listed_names(body) == names


async def test_the_answer_to_our_name_is_the_upstream_models() -> None:
    async with scripted_server(reply) as server:
        server.models = {"data": [{"id": name} for name in LIST]}
        pipeline = load(folder({"base_url": server.url, "models": {"ours": "meta/llama-3:8b"}}))
        async with running(pipeline) as reports:
            await collect(pipeline, chat(model="ours"))
            with pytest.raises(UpstreamAway):
                await collect(pipeline, chat(model="gpt-5"))
    assert server.calls[0].json["model"] == "meta/llama-3:8b"
    assert reports == [[ModelState("ours", description="upstream model meta/llama-3:8b")]]


async def test_a_listed_model_is_served_under_its_whole_name() -> None:
    async with scripted_server(reply) as server:
        server.models = {"data": [{"id": name} for name in LIST]}
        pipeline = load(folder({"base_url": server.url, "models": "*"}))
        async with running(pipeline) as reports:
            await collect(pipeline, chat(model=LIST[0]))
    assert [state.name for state in reports[0]] == LIST
    assert server.calls[0].json["model"] == LIST[0]


@pytest.mark.usefixtures("fast_checks")
async def test_models_come_back_by_themselves() -> None:
    async with scripted_server(reply) as server:
        server.check_status = 503
        pipeline = load(folder({"base_url": server.url}))
        async with running(pipeline) as reports:
            assert [(state.ready, state.reason) for state in reports[0]] == [
                (False, "The upstream is not ready (HTTP 503).")
            ]
            server.check_status = 200
            await until(reports, 2)
            assert reports[1][0].ready


@pytest.mark.usefixtures("fast_checks")
async def test_a_request_that_cannot_connect_makes_the_model_not_ready() -> None:
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 0}))
        reports: list[Sequence[ModelState]] = []
        await pipeline.start(reports.append)
        assert reports[0][0].ready
    with pytest.raises(UpstreamAway):
        await collect(pipeline, chat())
    await until(reports, 2)
    await pipeline.close()
    assert (reports[1][0].ready, reports[1][0].reason) == (False, "The upstream can't be reached.")


@pytest.mark.usefixtures("fast_checks")
async def test_the_list_is_read_again() -> None:
    async with scripted_server(reply) as server:
        server.check_status = 500
        pipeline = load(folder({"base_url": server.url, "models": "*"}))
        async with running(pipeline) as reports:
            assert reports == [[ModelState("model", ready=False, reason="The upstream is not ready (HTTP 500).")]]
            server.check_status, server.models = 200, {"data": [{"id": "a"}]}
            await until(reports, 2)
            assert [state.name for state in reports[1]] == ["a"]


async def test_a_list_without_a_match() -> None:
    async with scripted_server(reply) as server:
        pipeline = load(folder({"base_url": server.url, "models": ["gpt*"]}))
        async with running(pipeline) as reports:
            assert [(state.name, state.ready) for state in reports[0]] == [("model", False)]
            assert "none of the models" in reports[0][0].reason


async def test_however_many_requests_fail_the_next_check_is_after_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readiness, "FIRST_PAUSE", 30)
    async with scripted_server(lambda call: call.reply({}, 503)) as server:
        pipeline = load(folder({"base_url": server.url, "retries": 0, "check_interval": 30}))
        async with running(pipeline):
            await asyncio.sleep(0.1)
            assert len(server.checks) == 1
            for _ in range(20):
                with pytest.raises(UpstreamAway):
                    await collect(pipeline, chat())
            assert len(server.checks) == 2


async def test_an_upstream_without_a_list_serves_the_named_models() -> None:
    async with scripted_server(reply) as server:
        server.check_status, server.models = 404, "no such path"
        for models, n_ready in (({"a": "b"}, 1), ("*", 0)):
            pipeline = load(folder({"base_url": server.url, "models": models}))
            async with running(pipeline) as reports:
                assert sum(state.ready for state in reports[0]) == n_ready


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no URL": ({}, "base_url is required"),
    "variable of the URL": ({"base_url": "$NO_SUCH_URL"}, "base_url: the environment variable NO_SUCH_URL is not set"),
    "URL": ({"base_url": "localhost:11434"}, "base_url must be an http or https URL"),
    "space in the URL": ({"base_url": "http://my host/v1"}, "base_url must be an http or https URL"),
    "no Punycode": ({"base_url": "http://xn--"}, "base_url must be an http or https URL"),
    "known keys": ({"base_url": "http://a", "timeouts": {"read": 1}}, "allowed: connect, first_byte, gap, total"),
    "name": (
        {"base_url": "http://a", "models": {"a\nb": "c"}},
        r"models: 'a\\nb': .* unprintable characters",
    ),
    "port": ({"base_url": "http://a:99999"}, "base_url must be an http or https URL"),
    "credentials": ({"base_url": "http://me:hush@host"}, "base_url must not contain credentials"),
    "query": ({"base_url": "http://host?key=hush"}, "base_url must not have a query"),
    "key": ({"base_url": "http://a", "api_key": "hush"}, "api_key must be the name of an environment variable"),
    "two keys": ({"base_url": "http://a", "api_key": "$A", "api_key_file": "b"}, "exclude each other"),
    "file": ({"base_url": "http://a", "api_key_file": "b"}, "api_key_file can't be read"),
    "unknown": ({"base_url": "http://a", "modles": {}}, "unknown field `modles`"),
    "nested": ({"base_url": "http://a", "timeouts": {"connect": 0}}, r"\$.timeouts.connect"),
    "nested unknown": ({"base_url": "http://a", "timeouts": {"read": 1}}, "unknown field `read`"),
    "header": ({"base_url": "http://a", "headers": {"Authorization": "hush"}}, "'Authorization' can't be set here"),
    "header's value": ({"base_url": "http://a", "headers": {"X-A": "hush\n"}}, "headers.X-A must be printable"),
    "retries": ({"base_url": "http://a", "retries": 99}, "retries"),
    "agent": ({"base_url": "http://a", "user_agent": "ä"}, "user_agent must be printable ASCII"),
}


@pytest.mark.parametrize("case", BAD)
def test_wrong_settings_name_file_and_key(case: str) -> None:
    settings, problem = BAD[case]
    with pytest.raises(SetupError, match=problem) as caught:
        load(folder(settings, Path("pipelines/model")))
    assert str(caught.value).startswith("pipelines/model/pipeline.toml: [openai]: ")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("proxy", ["socks5://me:hush@127.0.0.1:9", "ftp://me:hush@host"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    with pytest.raises(SetupError, match="the proxies of the environment") as caught:
        load(folder({"base_url": "http://a"}))
    assert "hush" not in str(caught.value)


def test_the_url_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOUR_API_BASE_URL", "http://127.0.0.1:9/v1")
    assert load(folder({"base_url": "$YOUR_API_BASE_URL"}))
