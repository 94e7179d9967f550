"""The checks, the same for each backend. A check raises AssertionError."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.foreign import engine
from tests.foreign.bench import SERVER_PORT, Bench, sidecar_options
from tests.foreign.http_client import Events, Reply

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
FEWEST_PARTS = 5
"""Parts with text that a real stream has at least, of an answer of twelve tokens."""
NOTICE_SECONDS = 5.0
LONGEST_MESSAGE = 500  # characters
INTERNALS = re.compile(r"Traceback|File \"|\.py\b|site-packages|/tmp/|/opt/|/root/|/home/|\bline \d+, in\b")
"""Parts of a traceback and of file paths, which no error's message may contain."""


def check_models(bench: Bench) -> None:
    reply = bench.client.get("/v1/models")
    assert reply.status == 200, reply.body
    assert sorted(model["id"] for model in reply.json["data"]) == sorted(bench.backend.listed)
    for path in ("/health", "/readyz"):
        assert bench.client.get(path).status == 200, path


def check_completion(bench: Bench) -> None:
    prompt = "Write about crème brûlée 🍮"
    text, reason = _whole(bench, COMPLETIONS, {"prompt": prompt})
    assert text == engine.answer(prompt)
    assert reason in _reasons(bench, "stop")
    assert bench.requests()[-1]["prompt"] == prompt


def check_streamed(bench: Bench) -> None:
    prompt = "Write about milk"
    answer = bench.client.stream(COMPLETIONS, {"model": bench.backend.model, "prompt": prompt})
    _check_stream(bench, answer, engine.answer(prompt), ("stop",))
    if bench.backend.streams:
        assert len(answer.deltas) >= FEWEST_PARTS, answer.deltas


def check_chat(bench: Bench) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Write about coffee"}]
    prompt = "[system] Be brief.\n[user] Write about coffee\n[assistant]"
    text, reason = _whole(bench, CHAT, {"messages": messages})
    assert bench.requests()[-1]["prompt"] == prompt
    assert text == engine.answer(prompt)
    assert reason in _reasons(bench, "stop")
    answer = bench.client.stream(CHAT, {"model": bench.backend.model, "messages": messages})
    assert bench.requests()[-1]["prompt"] == prompt
    _check_stream(bench, answer, engine.answer(prompt), ("stop",))


def check_max_tokens(bench: Bench) -> None:
    prompt = "Write about salt"
    expected = engine.answer(prompt, 4)
    body = {"model": bench.backend.model, "prompt": prompt, "max_tokens": 4}
    _check_kept(bench, "max_tokens", body, expected, "length", bench.backend.keeps_max_tokens)


def check_stop(bench: Bench) -> None:
    """With a stop string that is a token, with one that begins and ends inside of tokens, and with one that has only
    begun when the answer ends."""
    prompt = "Write about soup"
    for stop in (" cups", "wo cu", "oons. And"):
        expected = engine.answer(prompt).partition(stop)[0]
        body = {"model": bench.backend.model, "prompt": prompt, "stop": [stop]}
        _check_kept(bench, "stop", body, expected, "stop", bench.backend.keeps_stop)


def check_usage(bench: Bench) -> None:
    prompt = "Write about rice, please"
    body = {"model": bench.backend.model, "prompt": prompt}
    reply = bench.client.post(COMPLETIONS, body)
    assert reply.status == 200, reply.body
    _check_usage(bench, reply.json.get("usage"), prompt)
    answer = bench.client.stream(COMPLETIONS, {**body, "stream_options": {"include_usage": True}})
    assert answer.status == 200, answer
    assert len(answer.usages) <= 1, answer
    _check_usage(bench, answer.usages[-1] if answer.usages else None, prompt)


def check_failures(bench: Bench) -> None:
    model = bench.backend.model
    at_once, midway = f"Please {engine.FAIL_AT_ONCE}", f"Please {engine.FAIL_MIDWAY}"
    for prompt in (at_once, midway):
        reply = bench.client.post(COMPLETIONS, {"model": model, "prompt": prompt})
        check_failure(reply)
    for prompt in (at_once, midway):
        answer = bench.client.stream(COMPLETIONS, {"model": model, "prompt": prompt})
        assert len(answer.errors) == 1, answer
        check_message(answer.errors[0])
        assert not answer.reasons, "an answer that failed has no reason to end"
        if prompt == midway and bench.backend.streams:
            text = "".join(answer.deltas)
            assert text == "About nothing" or (bench.backend.loses_text and "About nothing".startswith(text))
    check_completion(bench)
    if bench.backend.notices_leaving:
        _check_leaving(bench)
    check_completion(bench)


def check_refused(bench: Bench) -> None:
    """A field that the backend can't express is an error that names it, and never reaches the model."""
    n_requests = len(bench.requests())
    for name, value in bench.backend.refused.items():
        reply = bench.client.post(COMPLETIONS, {"model": bench.backend.model, "prompt": "Hi", name: value})
        assert reply.status == 400, (name, reply.status, reply.body)
        assert reply.error["param"] == name, reply.error
    assert len(bench.requests()) == n_requests
    reply = bench.client.post(COMPLETIONS, {"model": "no-such-model", "prompt": "Hi"})
    assert reply.status == 404, reply.body
    check_message(reply.error)


def check_choices(bench: Bench) -> None:
    """Several answers at once are all there, or the request fails."""
    prompt = "Write about beans"
    body = {"model": bench.backend.model, "prompt": prompt, "n": 2}
    reply = bench.client.post(COMPLETIONS, body)
    answer = bench.client.stream(COMPLETIONS, body)
    if not bench.backend.keeps_n:
        assert reply.status >= 400, reply.body
        assert answer.errors, answer
        return
    assert reply.status == 200, reply.body
    expected = [(choice, engine.answer(prompt, choice=choice), "stop") for choice in range(2)]
    choices = reply.json["choices"]
    assert [(choice["index"], choice["text"], choice["finish_reason"]) for choice in choices] == expected
    assert reply.json["usage"]["completion_tokens"] == 2 * len(engine.tokens(prompt))
    for number, text, reason in expected:
        parts = [choice for choice in answer.choices if choice["index"] == number]
        assert "".join(part["text"] for part in parts) == text
        assert [part["finish_reason"] for part in parts if part["finish_reason"]] == [reason]


def check_logprobs(bench: Bench) -> None:
    prompt = "Write about eggs"
    body = {"model": bench.backend.model, "prompt": prompt, "logprobs": 2}
    reply = bench.client.post(COMPLETIONS, body)
    if not bench.backend.has_logprobs:
        assert reply.status == 400, reply.body
        assert reply.error["param"] == "logprobs"
        return
    assert reply.status == 200, reply.body
    found = reply.json["choices"][0]["logprobs"]
    tokens = engine.tokens(prompt)
    assert found["tokens"] == tokens
    assert found["token_logprobs"] == [-0.25] * len(tokens)
    assert [len(row) for row in found["top_logprobs"]] == [2] * len(tokens)
    answer = bench.client.stream(COMPLETIONS, body)
    streamed = [token for choice in answer.choices if choice["logprobs"] for token in choice["logprobs"]["tokens"]]
    assert streamed == tokens


def check_parallel(bench: Bench) -> None:
    """Requests at the same time don't get each other's answers."""
    prompts = [f"Write about number{number}" for number in range(8)]

    def text_for(prompt: str) -> str:
        return "".join(bench.client.stream(COMPLETIONS, {"model": bench.backend.model, "prompt": prompt}).deltas)

    with ThreadPoolExecutor(len(prompts)) as threads:
        assert list(threads.map(text_for, prompts)) == [engine.answer(prompt) for prompt in prompts]


def check_report(bench: Bench) -> None:
    """`python -m openai_server check` names dialect and template, and gets a token."""
    report = bench.report()
    _, _, part = report.partition(f"model {bench.backend.model}\n")
    lines = dict(re.findall(r"^  (\S.*?) {2,}(.*)$", part.partition("\nmodel ")[0], re.MULTILINE))
    assert lines["dialect"].partition(":")[0] == (bench.backend.dialect or bench.backend.name)
    assert not lines["one token"].startswith("failed")
    assert not lines["chat template"].startswith("none"), lines["chat template"]


def check_template(bench: Bench) -> None:
    """Without a template, a chat is an error that names the option."""
    options = [
        option for option in sidecar_options(bench.backend, SERVER_PORT) if not option.startswith("--chat-template")
    ]
    messages = [{"role": "user", "content": "Write about toast"}]
    with bench.other_sidecar(options) as client:
        reply = client.post(CHAT, {"model": bench.backend.model, "messages": messages})
        assert reply.status == 400, reply.body
        assert "--chat-template" in reply.error["message"]


def check_prompts(bench: Bench) -> None:
    """Each prompt of a list has its answer."""
    prompts = ["Write about bread", "Write about jam"]
    reply = bench.client.post(COMPLETIONS, {"model": bench.backend.model, "prompt": prompts})
    assert reply.status == 200, reply.body
    texts = {choice["index"]: choice["text"] for choice in reply.json["choices"]}
    assert texts == {number: engine.answer(prompt) for number, prompt in enumerate(prompts)}


def check_apis(bench: Bench) -> None:
    """The Responses and Messages APIs give the same answers. The latter always limits the tokens."""
    expected = engine.answer("about honey")
    body: dict[str, Any] = {"model": bench.backend.model, "input": "Write about honey"}
    reply = bench.client.post("/v1/responses", body)
    assert reply.status == 200, reply.body
    assert reply.json["output"][0]["content"][0]["text"] == expected
    answer = bench.client.stream("/v1/responses", body)
    assert "".join(event["delta"] for event in answer.events if event["type"].endswith("text.delta")) == expected
    assert answer.events[-1]["type"] == "response.completed"
    messages = [{"role": "user", "content": "Write about honey"}]
    body = {"model": bench.backend.model, "max_tokens": 50, "messages": messages}
    reply = bench.client.post("/v1/messages", body)
    if bench.backend.keeps_max_tokens:
        assert reply.status == 200, reply.body
        assert [block["text"] for block in reply.json["content"]] == [expected]
    else:
        assert reply.status == 400, reply.body
        assert "max_tokens" in reply.json["error"]["message"]


def check_versions(bench: Bench) -> None:
    for name, version in bench.backend.versions.items():
        text, _ = _whole(bench, COMPLETIONS, {"model": name, "prompt": "Write about fish"})
        assert text == engine.answer("about fish")
        assert bench.requests()[-1]["version"] == version, name
    if bench.backend.versions:
        reply = bench.client.post(COMPLETIONS, {"model": f"{bench.backend.model}@2", "prompt": "Hi"})
        assert reply.status == 404, reply.body


CHECKS: Mapping[str, Callable[[Bench], None]] = {
    "models": check_models,
    "completion": check_completion,
    "streamed": check_streamed,
    "chat": check_chat,
    "max_tokens": check_max_tokens,
    "stop": check_stop,
    "usage": check_usage,
    "failures": check_failures,
    "refused": check_refused,
    "versions": check_versions,
    "choices": check_choices,
    "logprobs": check_logprobs,
    "parallel": check_parallel,
    "prompts": check_prompts,
    "apis": check_apis,
    "report": check_report,
    "template": check_template,
}


# ---- Parts of checks


def _whole(bench: Bench, path: str, body: dict[str, Any]) -> tuple[str, str | None]:
    """Returns text and finish reason of an answer that is not streamed."""
    reply = bench.client.post(path, {"model": bench.backend.model, **body})
    assert reply.status == 200, (reply.status, reply.body)
    [choice] = reply.json["choices"]
    return choice["text"] if path == COMPLETIONS else choice["message"]["content"], choice["finish_reason"]


def _reasons(bench: Bench, reason: str) -> tuple[str | None, ...]:
    """The honest finish reasons. Without a reported one, none is claimed, but the end that the backend marks may count
    as `stop`."""
    if bench.backend.has_reasons:
        return (reason,)
    return (None, "stop") if reason == "stop" else (None, reason)


def _check_stream(bench: Bench, answer: Events, expected: str, reasons: tuple[str, ...]) -> None:
    assert answer.status == 200, answer
    assert not answer.errors
    assert "".join(answer.deltas) == expected
    assert answer.is_done
    assert len(answer.reasons) <= 1
    if bench.backend.has_reasons:
        assert tuple(answer.reasons) == reasons
    if answer.reasons:
        assert answer.choices[-1]["finish_reason"], "the reason comes with the last choice"


def _check_kept(bench: Bench, name: str, body: dict[str, Any], expected: str, reason: str, is_keepable: bool) -> None:
    reply = bench.client.post(COMPLETIONS, body)
    answer = bench.client.stream(COMPLETIONS, body)
    assert answer.status == reply.status, (answer, reply)
    if reply.status == 400 and not is_keepable:
        assert reply.error["param"] == name, reply.error
        assert answer.errors[0]["param"] == name, answer.errors
        return
    assert reply.status == 200, reply.body
    [choice] = reply.json["choices"]
    assert choice["text"] == expected
    assert choice["finish_reason"] in _reasons(bench, reason)
    _check_stream(bench, answer, expected, (reason,))


def _check_usage(bench: Bench, usage: Any, prompt: str) -> None:
    if usage is None:
        assert not bench.backend.has_counts, "the backend counts"
        return
    assert usage["prompt_tokens"] == engine.count(prompt)
    assert usage["completion_tokens"] == len(engine.tokens(prompt))
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]


def check_failure(reply: Reply) -> None:
    assert 500 <= reply.status < 600, (reply.status, reply.body)
    check_message(reply.error)


def check_message(error: Mapping[str, Any]) -> None:
    message = error["message"]
    assert message
    assert len(message) <= LONGEST_MESSAGE
    assert not INTERNALS.search(message), message


def _check_leaving(bench: Bench) -> None:
    """The model ends when its client leaves, before a whole answer and amid a streamed one."""
    body: dict[str, Any] = {"model": bench.backend.model, "prompt": f"Please {engine.GO_ON}"}
    if bench.backend.keeps_max_tokens:
        body["max_tokens"] = engine.GO_ON_TOKENS
    n_requests, n_left = (sum(e["event"] == kind for e in bench.events()) for kind in ("request", "cancelled"))
    with bench.client.sending(COMPLETIONS, body):
        assert bench.wait_for("request", n_requests + 1, NOTICE_SECONDS), "the request did not reach the model"
    assert bench.wait_for("cancelled", n_left + 1, NOTICE_SECONDS), "the model goes on after its client has left"
    if bench.backend.streams:
        with bench.client.streaming(COMPLETIONS, {**body, "stream": True}) as response:
            assert response.status == 200, response.read()
            assert response.readline().startswith(b"data: ")
        assert bench.wait_for("cancelled", n_left + 2, NOTICE_SECONDS), "the model goes on after its client has left"
