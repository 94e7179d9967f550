"""Anthropic's Messages API: answers, streams, errors and their headers."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openai_server.core.errors import GRPC_TO_HTTP
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.anyserve_worker.fakes import FakeRunner
from tests.ops.able_worker import able_worker
from tests.wire.fake_worker import (
    ALL_INPUTS,
    PROMPT_TASKS,
    FakeWorker,
    Refusal,
    answers,
    hangs,
    hangs_midway,
    inputs_of,
    last_token,
    message,
    refuses,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Reply, Sidecar, app_for, running
from tests.wire.worker import worker

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

PATH = "/v1/messages"
HI = {"role": "user", "content": "hi"}
BODY: dict[str, Any] = {"messages": [HI], "max_tokens": 20}
TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]"
PARAMETERS = {"chat_template": TEMPLATE}


async def send(sidecar: Sidecar, path: str = PATH, **fields: Any) -> Reply:
    return await sidecar.send("POST", path, {**BODY, **fields})


def prompt(request: ModelInferRequest) -> str:
    return str(inputs_of(request)["prompt"][0].decode())


# ---- Answers


async def test_an_answer() -> None:
    async with running(FakeWorker(answers(whole("well", prompt=10, cached=4)), parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, system="Be brief.")
    assert reply.status == 200
    assert reply.headers["request-id"] == reply.headers["x-request-id"]
    body = reply.json
    assert body["id"].startswith("msg_")
    assert body["content"] == [{"type": "text", "text": "well", "citations": []}]
    assert (body["stop_reason"], body["model"]) == ("end_turn", "tiny")
    assert (body["usage"]["input_tokens"], body["usage"]["cache_read_input_tokens"]) == (6, 4)


async def test_a_stream() -> None:
    stream = streams(token("we"), token("ll"), last_token())
    async with running(FakeWorker(stream=stream, parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, stream=True)
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert reply.headers["request-id"]
    assert b"[DONE]" not in reply.body
    kinds = [event["type"] for event in reply.anthropic_events]
    assert kinds == [
        "message_start",
        "content_block_start",
        *["content_block_delta"] * 2,
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert reply.anthropic_events[-2]["usage"]["output_tokens"] == 2


async def test_the_prompt_has_the_messages_in_their_order() -> None:
    async with running(worker_ := FakeWorker(parameters=PARAMETERS)) as sidecar:
        messages = [HI, {"role": "assistant", "content": "yes"}, HI]
        assert (await send(sidecar, system="Be brief.", messages=messages)).status == 200
    assert prompt(worker_.requests[0]) == "[system]Be brief.[user]hi[assistant]yes[user]hi[assistant]"


@pytest.mark.parametrize("prefix", ["/v1", "", "/tiny", "/v1/models/tiny", "/v1/engines/tiny"])
async def test_the_model_may_be_in_the_path(prefix: str) -> None:
    async with running(able_worker()) as sidecar:
        for path in ("/messages", "/messages/count_tokens"):
            reply = await send(sidecar, prefix + path)
            assert reply.status == 200, reply.body
        if "tiny" in prefix:
            other = await send(sidecar, f"{prefix.replace('tiny', 'other')}/messages")
            assert (other.status, other.anthropic_error["type"]) == (404, "not_found_error")


async def test_an_answer_may_be_sent_back() -> None:
    tools = [{"name": "f", "input_schema": {"type": "object"}}]
    async with running(able_worker()) as sidecar:
        first = await send(sidecar, tools=tools, thinking={"type": "enabled", "budget_tokens": 1024})
        calls = [block for block in first.json["content"] if block["type"] == "tool_use"]
        assert [block["type"] for block in first.json["content"]] == ["thinking", "text", "tool_use"]
        results = [{"type": "tool_result", "tool_use_id": call["id"], "content": "3"} for call in calls]
        messages = [HI, {"role": "assistant", "content": first.json["content"]}, {"role": "user", "content": results}]
        second = await send(sidecar, tools=tools, messages=messages)
        assert second.status == 200, second.body
        usage = first.json["usage"]
        assert (usage["output_tokens_details"], first.json["stop_reason"]) == ({"thinking_tokens": 1}, "tool_use")


async def test_keys_that_no_table_has_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "openai_server.api.schemas.tables")
    async with running(FakeWorker(parameters=PARAMETERS)) as sidecar:
        block = {"type": "text", "text": "hi", "shade": "blue"}
        reply = await send(sidecar, unheard_of=[1], messages=[{"role": "user", "content": [block, {"type": "smell"}]}])
    assert reply.status == 200
    for place in ("unheard_of", "messages[0].content[0].shade", "messages[0].content[1], which has the type smell"):
        assert f"ignored: {place}" in caplog.messages


@pytest.mark.parametrize("stream", [False, True])
async def test_the_stop_sequence_that_ended_an_answer_is_reported(stream: bool) -> None:
    fake = FakeWorker(answers(whole("wellEND")), streams(token("we"), last_token("llEND")), parameters=PARAMETERS)
    async with running(fake) as sidecar:
        reply = await send(sidecar, stop_sequences=["END", "D"], stream=stream)
        assert inputs_of(fake.requests[0])["include_stop"] == [True]
        delta = reply.anthropic_events[-2]["delta"] if stream else reply.json
        assert (delta["stop_reason"], delta["stop_sequence"]) == ("stop_sequence", "END")
        assert b"END" not in reply.body.replace(b'"stop_sequence":"END"', b"")
        await send(sidecar, stream=stream)
        assert "include_stop" not in inputs_of(fake.requests[1])


async def test_a_backend_that_can_not_report_its_stop_string_answers() -> None:
    inputs = [spec.name for spec in contract.INPUTS if spec is not contract.INCLUDE_STOP]
    async with running(FakeWorker(answers(whole("well")), inputs=inputs, parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, stop_sequences=["END"])
    assert (reply.json["stop_reason"], reply.json["stop_sequence"]) == ("end_turn", None)


async def test_a_large_request_is_parsed_in_another_process() -> None:
    messages = [HI, {"role": "assistant", "content": [{"type": "text", "text": "a"}] * 4000}, HI]
    async with running(fake := FakeWorker(parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, messages=messages, stop_sequences=["END"], max_tokens=7)
        assert reply.status == 200, reply.body
    assert prompt(fake.requests[0]).count("a\n") == 3999
    assert inputs_of(fake.requests[0])["max_tokens"] == [7]


# ---- Errors

STATUS_TYPES = {
    400: "invalid_request_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    501: "api_error",
    502: "api_error",
    503: "api_error",
    504: "timeout_error",
}


@pytest.mark.parametrize("status", GRPC_TO_HTTP)
@pytest.mark.parametrize("stream", [False, True])
async def test_errors_of_the_backend_have_the_form_of_this_api(status: str, stream: bool) -> None:
    refusal = Refusal(status, "what happened")
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal), parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, stream=stream, model="tiny")
    assert reply.status == GRPC_TO_HTTP[status].status
    assert reply.anthropic_error["type"] == STATUS_TYPES[reply.status]
    assert ("retry-after" in reply.headers) == (reply.status in (429, 503))


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_backend_is_overloaded(stream: bool) -> None:
    refusal = Refusal("RESOURCE_EXHAUSTED", "full", reason=contract.REASON_QUEUE_FULL)
    async with running(FakeWorker(refuses(refusal), streams(fails=refusal), parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, stream=stream)
    assert (reply.status, reply.anthropic_error["type"], reply.headers["retry-after"]) == (529, "overloaded_error", "1")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_sidecar_is_overloaded_and_a_callers_rate_is_not(stream: bool) -> None:
    fake = FakeWorker(hangs, hangs_midway, parameters=PARAMETERS)
    async with running(fake, max_concurrency=1, max_queue=0) as sidecar:
        held = sidecar.start("POST", PATH, {**BODY, "stream": stream})
        await fake.arrived.get()
        reply = await send(sidecar, stream=stream)
        assert (reply.status, reply.anthropic_error["type"]) == (529, "overloaded_error")
        assert reply.headers["retry-after"] == "1"
        held.disconnect()
        await held.task
    async with running(FakeWorker(parameters=PARAMETERS), requests_per_minute=1) as sidecar:
        await send(sidecar)
        reply = await send(sidecar, stream=stream)
        assert (reply.status, reply.anthropic_error["type"]) == (429, "rate_limit_error")
        assert int(reply.headers["retry-after"]) > 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_prompt_that_is_too_long_has_the_words_that_clients_match(stream: bool) -> None:
    n = len("<|im_start|>user\n<|im_end|>\n<|im_start|>assistant\n")
    async with worker({"tiny": FakeRunner(n_ctx=100)}) as served, app_for(served.port) as sidecar:
        for length, message in (
            (200, f"prompt is too long: {200 + n} tokens > 100 maximum"),
            (100 - n, "prompt is too long: 100 tokens > 99 maximum"),
        ):
            reply = await send(sidecar, messages=[{"role": "user", "content": "x" * length}], stream=stream)
            assert (reply.status, reply.anthropic_error) == (
                400,
                {"type": "invalid_request_error", "message": message},
            )
        fits = await send(sidecar, messages=[{"role": "user", "content": "x" * (99 - n)}], stream=stream)
        assert fits.status == 200


async def test_a_prompt_of_unknown_length_is_too_long_too() -> None:
    refusal = Refusal("INVALID_ARGUMENT", "300 tokens", reason=contract.REASON_CONTEXT_LENGTH)
    async with running(FakeWorker(refuses(refusal), parameters=PARAMETERS)) as sidecar:
        assert (await send(sidecar)).anthropic_error["message"].startswith("prompt is too long: ")


async def test_a_failure_midway_is_an_event() -> None:
    refusal = Refusal("UNAVAILABLE", "gone")
    async with running(FakeWorker(stream=streams(token("one"), fails=refusal), parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, stream=True)
    *_, before, error = reply.anthropic_events
    assert before["delta"] == {"type": "text_delta", "text": "one"}
    assert (error["type"], error["error"]["type"]) == ("error", "api_error")


async def test_pings_are_events_also_before_the_first_one() -> None:
    may_answer = asyncio.Event()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        await may_answer.wait()
        yield token("x")
        yield last_token()

    async with running(FakeWorker(stream=stream, parameters=PARAMETERS), ping_interval=0.01) as sidecar:
        call = sidecar.start("POST", PATH, {**BODY, "stream": True})
        await call.until(b"event: ping\n")
        may_answer.set()
        await call.task
    events = [event for event in call.reply.anthropic_events if event != {"type": "ping"}]
    assert events[0]["type"] == "message_start"
    assert call.reply.pings == 0


async def test_a_key_is_needed() -> None:
    async with running(FakeWorker(parameters=PARAMETERS), api_key=("right",)) as sidecar:
        for path in (PATH, "/messages", "/tiny/messages", f"{PATH}/count_tokens", f"{PATH}/unheard_of"):
            reply = await sidecar.send("POST", path, BODY)
            assert (reply.status, reply.anthropic_error["type"]) == (401, "authentication_error")
        for header in ({"x-api-key": "right"}, {"authorization": "Bearer right"}):
            assert (await sidecar.send("POST", PATH, BODY, header)).status == 200


@pytest.mark.parametrize("path", [PATH, f"{PATH}/count_tokens"])
async def test_every_failure_has_the_form_of_this_api(path: str) -> None:
    async with running(FakeWorker(parameters=PARAMETERS), max_body_bytes=1000) as sidecar:
        for status, type, reply in (
            (400, "invalid_request_error", await sidecar.send("POST", path, b"{")),
            (400, "invalid_request_error", await sidecar.send("POST", path, {})),
            (404, "not_found_error", await send(sidecar, path, model="other")),
            (405, "invalid_request_error", await sidecar.send("GET", path)),
            (413, "request_too_large", await send(sidecar, path, system="x" * 1000)),
            (415, "invalid_request_error", await sidecar.send("POST", path, BODY, {"content-encoding": "gzip"})),
        ):
            assert (reply.status, reply.anthropic_error["type"]) == (status, type)


async def test_the_client_decides_about_the_form_of_errors_elsewhere() -> None:
    version = {"anthropic-version": "2023-06-01"}
    async with running(FakeWorker()) as sidecar:
        for method, path in (("GET", "/v1/unheard_of"), ("GET", "/v1/models/none"), ("POST", "/v1/models")):
            assert (await sidecar.send(method, path, None, version)).anthropic_error
            assert (await sidecar.send(method, path)).error
        for path in ("/v1/messages/unheard_of", "/messages/batches"):
            assert (await sidecar.send("POST", path, BODY)).anthropic_error["type"] == "not_found_error"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1023}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"thinking": {"type": "sometimes"}}, "thinking.type"),
        ({"tools": [{"name": "f"}]}, "tools[0].input_schema"),
        ({"tools": [{"input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "a b", "input_schema": {}}]}, "tools[0].name"),
        ({"tools": [{"name": "f", "input_schema": {}}] * 2}, "tools"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": {"type": "tool", "name": "g"}}, "tool_choice.name"),
        ({"output_config": {"effort": "some"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "xml"}}}, "output_config.format.type"),
        ({"stop_sequences": [""]}, "stop_sequences[0]"),
        ({"stop_sequences": ["a"] * 17}, "stop_sequences"),
        ({"temperature": 3}, "temperature"),
        ({"thread": {"id": "x"}}, "thread"),
        ({"regex": "a", "grammar": "b"}, "grammar"),
    ],
)
async def test_invalid_values_are_refused_by_name(fields: dict[str, Any], param: str) -> None:
    async with running(FakeWorker(parameters=PARAMETERS)) as sidecar:
        reply = await send(sidecar, **fields)
    assert reply.status == 400, reply.body
    assert reply.names_field(param), reply.body


# ---- Tools of servers

SEARCH = {"type": "web_search_20260318", "name": "web_search", "max_uses": 3}
BASH = {"type": "bash_20250124", "name": "bash"}


async def test_tools_that_only_a_server_can_run_are_left_out_unless_required() -> None:
    code_only = {"name": "g", "input_schema": {}, "allowed_callers": ["code_execution_20260521"]}
    function = {"name": "f", "input_schema": {}, "defer_loading": True}
    async with running(able_worker()) as sidecar:
        prompts = [
            (await send(sidecar, f"{PATH}/count_tokens", tools=tools)).status
            for tools in ([SEARCH], [BASH, function], [code_only])
        ]
        assert prompts == [200] * 3
        for tools, choice in (
            ([SEARCH], {"type": "any"}),
            ([function, SEARCH], {"type": "tool", "name": "web_search"}),
            ([function, BASH], {"type": "tool", "name": "bash"}),
            ([code_only], {"type": "tool", "name": "g"}),
        ):
            reply = await send(sidecar, tools=tools, tool_choice=choice)
            assert reply.status == 400
            assert "tool_choice" in reply.anthropic_error["message"]
        assert (await send(sidecar, tools=[function, SEARCH], tool_choice={"type": "any"})).status == 200


async def test_only_tools_that_the_model_may_call_are_in_the_prompt() -> None:
    template = '{% if tools %}{{ tools | tojson }}<tool_call>"arguments"</tool_call>{% endif %}' + TEMPLATE
    tools = [SEARCH, {"name": "f", "description": "d", "input_schema": {"type": "object"}}, BASH]
    async with running(fake := FakeWorker(parameters={"chat_template": template})) as sidecar:
        assert (await send(sidecar, tools=tools)).status == 200
        assert (await send(sidecar, tools=tools, tool_choice={"type": "none"})).status == 200
    listed, _, _ = prompt(fake.requests[0]).partition("<tool_call>")
    assert [tool["function"]["name"] for tool in json.loads(listed)] == ["f"]
    assert prompt(fake.requests[1]) == "[user]hi[assistant]"


# ---- Reasoning

REASONING_TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}{% endfor %}"
    "[assistant]{% if enable_thinking %}{# a switch #}{% endif %}"
)
OMITTED = {"type": "adaptive", "display": "omitted"}


@pytest.mark.parametrize("stream", [False, True])
async def test_omitted_reasoning_comes_back_with_its_signature(stream: bool) -> None:
    text = "<think>hm</think>well"
    parameters = {"chat_template": REASONING_TEMPLATE}
    fake = FakeWorker(answers(whole(text)), streams(token(text), last_token()), parameters=parameters)
    async with running(fake) as sidecar:
        reply = await send(sidecar, thinking=OMITTED, stream=stream)
        if stream:
            [delta] = [event["delta"] for event in reply.anthropic_events if "signature" in event.get("delta", {})]
            signature = delta["signature"]
        else:
            thinking, _ = reply.json["content"]
            signature = thinking.pop("signature")
            assert thinking == {"type": "thinking", "thinking": ""}
        assert b'hm"' not in reply.body
        for sent, shown in ((signature, "<think>hm</think>"), (f"{signature}x", ""), ("as1.", ""), ("", "")):
            block = {"type": "thinking", "thinking": "", "signature": sent}
            answer = {"role": "assistant", "content": [block, {"type": "text", "text": "well"}]}
            assert (await send(sidecar, messages=[HI, answer, HI])).status == 200
            assert prompt(fake.requests[-1]) == f"[user]hi[assistant]{shown}well[user]hi[assistant]"


async def test_counted_prompts_have_the_reasoning_that_was_omitted() -> None:
    fake = FakeWorker(
        answers(whole("<think>hm</think>well"), message((contract.TOKEN_IDS, [1, 2]))),
        inputs=[spec.name for task in PROMPT_TASKS.values() for spec in task.inputs],
        parameters={"chat_template": REASONING_TEMPLATE, "tasks": ",".join(PROMPT_TASKS)},
    )
    async with running(fake) as sidecar:
        answer = {"role": "assistant", "content": (await send(sidecar, thinking=OMITTED)).json["content"]}
        assert (await send(sidecar, f"{PATH}/count_tokens", messages=[HI, answer, HI])).json == {"input_tokens": 2}
    assert prompt(fake.requests[-1]) == "[user]hi[assistant]<think>hm</think>well[user]hi[assistant]"


async def test_shown_reasoning_needs_no_signature() -> None:
    fake = FakeWorker(answers(whole("well")), parameters={"chat_template": REASONING_TEMPLATE})
    async with running(fake) as sidecar:
        for signature in ({}, {"signature": "other"}):
            answer = {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm", **signature}]}
            assert (await send(sidecar, messages=[HI, answer, HI])).status == 200
            assert "[assistant]<think>hm</think>" in prompt(fake.requests[-1])


# ---- System messages at other places than the beginning

STRICT_TEMPLATES = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('misplaced') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]",
    "{% set rest = messages[1:] if messages[0].role == 'system' else messages %}"
    "{{ messages[0].content if messages[0].role == 'system' }}"
    "{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}[assistant]",
)


@pytest.mark.parametrize("template", STRICT_TEMPLATES)
async def test_a_system_message_keeps_its_place_in_every_template(template: str) -> None:
    messages = [
        HI,
        {"role": "system", "content": "It is 10:00."},
        {"role": "assistant", "content": "yes"},
        {"role": "system", "content": "It is 11:00."},
        HI,
    ]
    async with running(fake := FakeWorker(parameters={"chat_template": template})) as sidecar:
        for part in (messages[:2], messages):
            reply = await send(sidecar, system="Be brief.", messages=part)
            assert reply.status == 200, reply.body
    first, second = map(prompt, fake.requests)
    assert second.startswith(first.removesuffix("[assistant]"))
    assert first.index("Be brief.") < first.index("hi") < first.index("It is 10:00.")
    assert second.index("yes") < second.index("It is 11:00.") < second.rindex("hi")


# ---- Prefixes

BILLING = "x-anthropic-billing-header: cc_version=2.1.332.{}; cc_entrypoint=cli; cch={};"


async def test_the_second_turn_reads_the_cells_of_the_first_despite_its_billing_block() -> None:
    before = 0
    async with worker({"tiny": FakeRunner(n_ctx=2000, n_cells=8000)}) as served, app_for(served.port) as sidecar:
        turns: list[Any] = [HI, {"role": "system", "content": "The time is 10:00. " * 5}]
        for n in range(3):
            system = [{"type": "text", "text": text} for text in (BILLING.format(n, "a" * n), "Be brief. " * 20)]
            reply = await send(sidecar, system=system, messages=turns, max_tokens=5)
            usage = reply.json["usage"]
            assert usage["cache_read_input_tokens"] >= before
            before = usage["input_tokens"] + usage["cache_read_input_tokens"]
            turns = [*turns, {"role": "assistant", "content": reply.json["content"]}, HI]


async def test_web_pages_may_read_the_id_of_their_request() -> None:
    async with running(FakeWorker(parameters=PARAMETERS), cors_origin=("https://chat.example.com",)) as sidecar:
        reply = await sidecar.send("POST", PATH, BODY, {"origin": "https://chat.example.com"})
    exposed = reply.headers["access-control-expose-headers"].split(", ")
    assert {"request-id", "x-request-id"} <= set(exposed)


# ---- Models that always reason

ALWAYS_THINKS = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}{% endfor %}<think>\n"


async def test_thinking_that_is_disabled_ends_at_once_without_a_switch() -> None:
    parameters = {"chat_template": ALWAYS_THINKS}
    async with running(fake := FakeWorker(parameters=parameters)) as sidecar:
        assert (await send(sidecar, thinking={"type": "disabled"})).status == 200
        assert inputs_of(fake.requests[0])["max_marked_tokens"] == [0]
        reply = await sidecar.send("POST", "/v1/responses", {"input": "hi", "reasoning": {"effort": "none"}})
        assert reply.status == 200, reply.body
        assert inputs_of(fake.requests[1])["max_marked_tokens"] == [0]
    inputs = set(ALL_INPUTS) - {"max_marked_tokens"}
    async with running(FakeWorker(parameters=parameters, inputs=inputs)) as sidecar:
        reply = await send(sidecar, thinking={"type": "disabled"})
        assert (reply.status, "'thinking'" in reply.anthropic_error["message"]) == (400, True)
