"""Pipelines of a real worker behind the sidecar: the whole way of a chat, without a fake."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.anyserve_worker.pipelines.scripted_server import Call, scripted_server
from tests.wire.pipelines import WORDS, serving, write
from tests.wire.sidecar import Sidecar, app_for

SHAPES = """
    import json

    class PipelineWrapper:
        def run_chat_completion(self, model, messages, body):
            return json.dumps({"model": model, "messages": messages, "body": body})

        def run_response(self, model, input_items, body):
            return json.dumps({"items": input_items, "body": body})
    """
"""A pipeline that answers with its arguments."""
FAILS = """
    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def words():
                yield "one"
                raise ValueError("a secret")
            return words()
    """
TICKS = """
    import asyncio
    from pathlib import Path

    class PipelineWrapper:
        async def run_chat_completion_async(self, model, messages, body):
            async def ticks():
                try:
                    while True:
                        yield "tick "
                        await asyncio.sleep(0.02)
                finally:
                    Path(__file__).with_name("closed").touch()
            return ticks()
    """
STRICT = """
    kind = "http"

    [http]
    base_url = "URL"

    [http.mapping]
    request = { path = "/x", body = { text = "{last_user}", limit = "{max_tokens}" } }
    answer = { text = "text", finish = { absent = "stop" } }
    """
"""An API with few fields."""
USER = [{"role": "user", "content": "you"}]


@asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Sidecar]:
    for name, source in (("words", WORDS), ("shapes", SHAPES), ("fails", FAILS), ("ticks", TICKS)):
        write(folder, name, source)
    async with serving(folder) as server, app_for(server.worker.port) as sidecar:
        yield sidecar


@pytest.mark.slow
async def test_pipelines_answer_in_all_apis(tmp_path: Path) -> None:
    async with pair(tmp_path) as sidecar:
        listed = [model["id"] for model in (await sidecar.get("/v1/models")).json["data"]]
        assert sorted(listed) == ["fails", "shapes", "ticks", "words"]
        whole = await sidecar.chat(*USER, model="words")
        [choice] = whole.json["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello, you", "stop")
        assert (await sidecar.chat(*USER, model="unknown")).status == 404
        stream = await sidecar.chat(*USER, model="words", stream=True)
        deltas = [event["choices"][0]["delta"] for event in stream.events]
        assert "".join(delta.get("content") or "" for delta in deltas) == "Hello, you"
        assert stream.events[-1]["choices"][0]["finish_reason"] == "stop"
        anthropic = {"model": "words", "max_tokens": 9, "messages": USER}
        message = await sidecar.send("POST", "/v1/messages", anthropic)
        assert (message.json["content"][0]["text"], message.json["stop_reason"]) == ("Hello, you", "end_turn")
        events = (await sidecar.send("POST", "/v1/messages", {**anthropic, "stream": True})).anthropic_events
        assert events[-1]["type"] == "message_stop"

        chat = await sidecar.chat(*USER, model="shapes", temperature=0.5, user="u")
        arguments = json.loads(chat.json["choices"][0]["message"]["content"])
        assert (arguments["model"], arguments["messages"]) == ("shapes", USER)
        assert (arguments["body"]["temperature"], arguments["body"]["user"]) == (0.5, "u")
        assert arguments["body"]["stream"] is False
        for streamed in (False, True):
            body: dict[str, Any] = {"model": "shapes", "input": "you", "instructions": "i", "stream": streamed}
            reply = await sidecar.send("POST", "/v1/responses", body)
            response = reply.events[-1]["response"] if streamed else reply.json
            arguments = json.loads(response["output"][-1]["content"][0]["text"])
            [item] = arguments["items"]
            assert (item["role"], item["content"][0]["text"]) == ("user", "you")
            assert (arguments["body"]["instructions"], arguments["body"]["stream"]) == ("i", streamed)

        for streamed in (False, True):
            failed = await sidecar.chat(*USER, model="fails", stream=streamed)
            assert b"secret" not in failed.body
            error = failed.events[-1]["error"] if streamed else failed.error
            assert error["code"] == "backend_error"
        refused = await sidecar.complete(model="words", prompt="a")
        assert (refused.status, refused.error["code"]) == (400, "unsupported_task")

        for streamed in (True, False):
            (tmp_path / "ticks" / "closed").unlink(missing_ok=True)
            call = sidecar.start(
                "POST", "/v1/chat/completions", {"model": "ticks", "messages": USER, "stream": streamed}
            )
            if streamed:
                await asyncio.wait_for(call.until(b"tick"), 10)
            else:
                await asyncio.sleep(0.3)
            call.disconnect()
            async with asyncio.timeout(10):
                while not (tmp_path / "ticks" / "closed").exists():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)


@pytest.mark.slow
async def test_a_field_that_a_foreign_api_lacks_is_named_as_the_client_wrote_it(tmp_path: Path) -> None:
    async def never(call: Call) -> None:
        raise AssertionError("a refused request reached the API")

    (tmp_path / "strict").mkdir()
    chat, message = {"messages": USER}, {"messages": USER, "max_tokens": 9}
    schema = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    cases: list[tuple[str, dict[str, Any], str]] = [
        ("/v1/chat/completions", chat | {"seed": 1}, "seed"),
        ("/v1/chat/completions", chat | {"functions": [{"name": "f"}]}, "functions"),
        ("/v1/chat/completions", chat | {"guided_regex": "a"}, "guided_regex"),
        ("/v1/chat/completions", chat | {"n": 2}, "n"),
        ("/v1/responses", {"input": "a", "text": {"format": schema}}, "text.format"),
        ("/v1/responses", {"input": "a", "reasoning": {"effort": "low"}}, "reasoning.effort"),
        ("/v1/messages", message | {"stop_sequences": ["a"]}, "stop_sequences"),
        ("/v1/messages", message | {"tools": [{"name": "f", "input_schema": {"type": "object"}}]}, "tools"),
    ]
    async with scripted_server(never) as api:
        (tmp_path / "strict" / "pipeline.toml").write_text(dedent(STRICT).replace("URL", api.url))
        async with serving(tmp_path) as server, app_for(server.worker.port) as sidecar:
            for path, body, field in cases:
                for stream in (False, True):
                    reply = await sidecar.send("POST", path, {**body, "model": "strict", "stream": stream})
                    assert reply.status == 400, reply.body
                    assert reply.names_field(field)
                    assert f"'{field}'" in reply.json["error"]["message"]
        assert not api.calls
