from typing import Any

import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from protos import contract
from tests.shapes import exact
from tests.wire.fake_worker import FakeWorker, answers, inputs_of, last_token, message, streams, token, whole
from tests.wire.sidecar import Sidecar, for_all, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

TEMPLATE = "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
METADATA = {"chat_template": TEMPLATE, "bos_token": "<s>"}


async def prompt_of(worker: FakeWorker, sidecar: Sidecar, *messages: dict[str, Any], **body: object) -> str:
    reply = await sidecar.chat(*messages, **body)
    assert reply.status == 200, reply.body
    text: bytes = inputs_of(worker.requests[-1])["prompt"][0]
    return text.decode()


async def test_a_chat_completion_has_the_shape_of_the_openai_package() -> None:
    worker = FakeWorker(answers(whole("Hello", "Hi")))
    async with running(worker) as sidecar:
        reply = await sidecar.chat(n=2)
    completion = exact(ChatCompletion, reply.json)
    assert completion.id.startswith("chatcmpl-")
    assert [(c.index, c.message.content, c.finish_reason) for c in completion.choices] == [
        (0, "Hello", "stop"),
        (1, "Hi", "stop"),
    ]
    assert completion.usage is not None
    assert completion.usage.total_tokens == 7


async def test_max_tokens_is_only_sent_if_requested() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        await sidecar.chat()
        await sidecar.chat(max_tokens=4)
        await sidecar.chat(max_completion_tokens=5)
    assert [inputs_of(request).get("max_tokens") for request in worker.requests] == [None, [4], [5]]


async def test_the_models_own_template_renders_the_prompt() -> None:
    worker = FakeWorker(parameters=METADATA)
    async with running(worker) as sidecar:
        prompt = await prompt_of(
            worker,
            sidecar,
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        )
    assert prompt == "<s>[system]Be brief.[user]a\nb[assistant]"


async def test_a_model_without_a_template_gets_chatml() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        prompt = await prompt_of(worker, sidecar, {"role": "user", "content": "a"})
    assert prompt == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"


async def test_chatml_stops_at_the_end_of_the_turn() -> None:
    """For a model without a template, the end of a turn is ordinary text, so it's sent as a stop string."""
    worker = FakeWorker()
    async with running(worker) as sidecar:
        await sidecar.chat()
        await sidecar.chat(stop="x")
        await sidecar.chat(stop=["x"] * contract.MAX_STOP_STRINGS)
    assert [inputs_of(request)["stop"] for request in worker.requests] == [
        [b"<|im_end|>"],
        [b"x", b"<|im_end|>"],
        [b"x"] * contract.MAX_STOP_STRINGS,
    ]
    worker = FakeWorker(parameters=METADATA)
    async with running(worker) as sidecar:
        await sidecar.chat()
    assert "stop" not in inputs_of(worker.requests[-1])


async def test_an_operators_template_overrides_the_models() -> None:
    worker = FakeWorker(parameters=METADATA)
    async with running(worker, chat_template=for_all("{{ messages[0].content }}!")) as sidecar:
        assert await prompt_of(worker, sidecar, {"role": "user", "content": "a"}) == "a!"


async def test_a_template_that_fails_is_a_400_with_its_message() -> None:
    for template, problem in (
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "line 1"),
        ("{% for i in range(99999) %}{% for i in range(99999) %}{% endfor %}{% endfor %}", "longer than"),
    ):
        worker = FakeWorker(parameters={"chat_template": template})
        async with running(worker, template_timeout=0.05) as sidecar:
            reply = await sidecar.chat()
        assert reply.status == 400
        assert problem in reply.error["message"]
        assert (reply.error["param"], reply.error["code"]) == ("messages", "chat_template_failed")
        assert worker.requests == []


async def test_a_stream_has_role_deltas_finish_reason_usage_and_done_in_this_order() -> None:
    worker = FakeWorker(stream=streams(token("Hel"), token("lo"), last_token("!", reason="length")))
    async with running(worker) as sidecar:
        reply = await sidecar.chat(stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["cache-control"] == "no-cache"
    assert reply.headers["x-accel-buffering"] == "no"
    chunks = [exact(ChatCompletionChunk, event) for event in reply.events]
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert [(event["choices"][0]["delta"], event["choices"][0]["finish_reason"]) for event in reply.events[:-1]] == [
        ({"role": "assistant", "content": ""}, None),
        ({"content": "Hel"}, None),
        ({"content": "lo"}, None),
        ({"content": "!"}, None),
        ({}, "length"),
    ]
    assert all(event["usage"] is None for event in reply.events[:-1])
    assert reply.events[-1]["choices"] == []
    assert reply.events[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "total_tokens": 5,
        "prompt_tokens_details": {"cached_tokens": 1},
    }


async def test_a_stream_without_usage_has_no_usage_field() -> None:
    async with running(FakeWorker(stream=streams(last_token("x")))) as sidecar:
        reply = await sidecar.chat(stream=True)
    assert all("usage" not in event for event in reply.events)


async def test_each_choice_of_a_stream_has_its_own_role_and_finish_reason() -> None:
    first = message(
        (contract.TOKEN, [b"a", b"b"]),
        (contract.INDEX, [0, 1]),
        (contract.FINISH_REASON, [b"null", b"stop"]),
        (contract.PROMPT_TOKENS, [3]),
        (contract.COMPLETION_TOKENS, [1, 2]),
    )
    async with running(FakeWorker(stream=streams(first, last_token("c", 0, reason="length")))) as sidecar:
        reply = await sidecar.chat(stream=True, n=2, stream_options={"include_usage": True})
    deltas = [(c["index"], c["delta"], c["finish_reason"]) for event in reply.events for c in event["choices"]]
    assert deltas == [
        (0, {"role": "assistant", "content": ""}, None),
        (1, {"role": "assistant", "content": ""}, None),
        (0, {"content": "a"}, None),
        (1, {"content": "b"}, None),
        (1, {}, "stop"),
        (0, {"content": "c"}, None),
        (0, {}, "length"),
    ]
    assert reply.events[-1]["usage"]["completion_tokens"] == 4
