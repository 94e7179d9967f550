"""The chat model of examples/triton_chat in a real Triton: as it is, and with scripted answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.foreign import engine, setup
from tests.foreign.backends import Backend
from tests.foreign.bench import SERVER_PORT, SIDECAR_PORT, Bench, server, sidecar
from tests.foreign.checks import CHAT, NOTICE_SECONDS, check_failure, check_message

MODEL = "chat_model"
SCRIPTED = "scripted"
HELLO = [{"role": "user", "content": "Hello from Triton"}]
ANSWER = "You wrote 3 words: Hello from Triton"


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    backend = Backend("triton-chat", "Triton, a model that takes chats", SCRIPTED)
    folder = tmp_path_factory.mktemp(backend.name)
    # Without a template, which such a model doesn't need.
    options = [f"--anyserve-endpoint=127.0.0.1:{SERVER_PORT}"]
    with (
        server(backend, folder) as place,
        sidecar(place, options, folder / "sidecar.log", SIDECAR_PORT) as client,
    ):
        yield Bench(place, backend, client, folder)


def about(topic: str) -> list[dict[str, Any]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Write about {topic} 🍮"}]


# ---- The example as it is


def test_both_models_are_listed(bench: Bench) -> None:
    assert sorted(model["id"] for model in bench.client.get("/v1/models").json["data"]) == [MODEL, SCRIPTED]
    assert bench.client.get("/readyz").status == 200


def test_the_check_command_names_the_dialect(bench: Bench) -> None:
    _, _, part = bench.report().partition(f"model {MODEL}\n")
    lines = dict(re.findall(r"^  (\S.*?) {2,}(.*)$", part.partition("\nmodel ")[0], re.MULTILINE))
    assert lines["dialect"].startswith("chat: ")
    assert not lines["one token"].startswith("failed"), lines


def test_a_chat_is_answered_whole_and_as_a_stream(bench: Bench) -> None:
    body = {"model": MODEL, "messages": HELLO, "temperature": 0.5, "user": "ada"}
    reply = bench.client.post(CHAT, body)
    assert reply.status == 200, reply.body
    [choice] = reply.json["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (ANSWER, "stop")
    assert (reply.json["usage"]["prompt_tokens"], reply.json["usage"]["completion_tokens"]) == (3, 7)
    answer = bench.client.stream(CHAT, {**body, "stream_options": {"include_usage": True}})
    assert answer.deltas == ["You", " wrote", " 3", " words:", " Hello", " from", " Triton"]
    assert answer.reasons == ["stop"]
    assert answer.usages[-1]["completion_tokens"] == 7
    assert answer.is_done


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_the_limit_of_tokens_is_kept(bench: Bench, name: str) -> None:
    answer = bench.client.stream(CHAT, {"model": MODEL, "messages": HELLO, name: 2})
    assert (answer.deltas, answer.reasons) == (["You", " wrote"], ["length"])


def test_a_message_may_have_parts(bench: Bench) -> None:
    parts = [{"type": "text", "text": "Hello "}, {"type": "text", "text": "from Triton"}]
    reply = bench.client.post(CHAT, {"model": MODEL, "messages": [{"role": "user", "content": parts}]})
    assert reply.json["choices"][0]["message"]["content"] == ANSWER


def test_responses_and_messages_are_answered(bench: Bench) -> None:
    body = {"model": MODEL, "input": "Hello from Triton"}
    assert bench.client.post("/v1/responses", body).json["output"][0]["content"][0]["text"] == ANSWER
    streamed = bench.client.stream("/v1/responses", body).events
    assert "".join(event["delta"] for event in streamed if event["type"].endswith("text.delta")) == ANSWER
    assert streamed[-1]["type"] == "response.completed"
    message = bench.client.post("/v1/messages", {"model": MODEL, "max_tokens": 50, "messages": HELLO})
    assert [block["text"] for block in message.json["content"]] == [ANSWER]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        (['[{"role": "user", "content": "Hi there"}]'], "there"),
        (['{"role": "system", "content": "Be brief."}', '{"role": "user", "content": "Hi there"}'], "there"),
        (["[]"], "messages: must be a JSON array of objects, or an object in each element"),
    ],
)
def test_messages_may_be_an_array_or_an_object_in_each_element(
    bench: Bench, elements: list[str], expected: str
) -> None:
    request = {"model_name": MODEL, "id": "r1", "tensors": [["messages", "BYTES", [len(elements)], elements]]}
    command = [*bench.place.prefix, sys.executable, "-m", "tests.foreign.probe", str(SERVER_PORT)]
    line = json.dumps({"rpc": "ModelStreamInfer", "request": request})
    answer = subprocess.run(command, input=line, capture_output=True, text=True, check=True, cwd=setup.ROOT).stdout
    assert expected in answer


@pytest.mark.parametrize("streams", [False, True])
def test_a_field_that_the_model_cannot_follow_is_named(bench: Bench, streams: bool) -> None:
    body = {"model": MODEL, "messages": HELLO, "frequency_penalty": 1}
    if streams:
        answer = bench.client.stream(CHAT, body)
        assert answer.status == 400
        [error] = answer.errors
    else:
        reply = bench.client.post(CHAT, body)
        assert reply.status == 400
        error = reply.error
    assert error["message"].startswith("frequency_penalty: ")


# ---- Scripted answers


def test_the_model_gets_messages_and_body(bench: Bench) -> None:
    body = {"model": SCRIPTED, "messages": about("coffee"), "max_tokens": 50, "metadata": {"a": "b"}}
    reply = bench.client.post(CHAT, body)
    assert reply.json["choices"][0]["message"]["content"] == engine.answer("about coffee")
    request = bench.requests()[-1]
    assert request["messages"] == body["messages"]
    assert request["body"] == {**body, "stream": False}


def test_answers_at_the_same_time_are_not_mixed_up(bench: Bench) -> None:
    topics = [f"number{number}" for number in range(8)]

    def answer(topic: str) -> str:
        return "".join(bench.client.stream(CHAT, {"model": SCRIPTED, "messages": about(topic)}).deltas)

    with ThreadPoolExecutor(len(topics)) as threads:
        assert list(threads.map(answer, topics)) == [engine.answer(f"about {topic}") for topic in topics]


@pytest.mark.parametrize("word", [engine.FAIL_AT_ONCE, engine.FAIL_MIDWAY])
def test_a_failure_shows_no_exception(bench: Bench, word: str) -> None:
    messages = [{"role": "user", "content": f"Please {word}"}]
    reply = bench.client.post(CHAT, {"model": SCRIPTED, "messages": messages})
    check_failure(reply)
    answer = bench.client.stream(CHAT, {"model": SCRIPTED, "messages": messages})
    [error] = answer.errors
    check_message(error)
    assert not answer.reasons
    assert "".join(answer.deltas) == ("About nothing" if word == engine.FAIL_MIDWAY else "")
    assert "CUDA" not in reply.body.decode() + error["message"]
    assert "CUDA" in (bench.folder / "server.log").read_text()


@pytest.mark.parametrize("streams", [False, True])
def test_the_model_ends_when_its_client_leaves(bench: Bench, streams: bool) -> None:
    body = {"model": SCRIPTED, "messages": [{"role": "user", "content": engine.GO_ON}], "stream": streams}
    n_requests, n_left = (sum(e["event"] == kind for e in bench.events()) for kind in ("request", "cancelled"))
    if streams:
        with bench.client.streaming(CHAT, body) as response:
            assert response.readline().startswith(b"data: ")
    else:
        with bench.client.sending(CHAT, body):
            assert bench.wait_for("request", n_requests + 1, NOTICE_SECONDS)
    assert bench.wait_for("cancelled", n_left + 1, NOTICE_SECONDS), "the model goes on after its client has left"
