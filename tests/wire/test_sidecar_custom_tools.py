"""Custom tools, tools that may not be called, and repeated calls, over HTTP."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.parsing.lark.test_nested import APPLY_PATCH, PATCH
from tests.wire.fake_worker import (
    ALL_INPUTS,
    FakeWorker,
    Refusal,
    answers,
    first_token,
    inputs_of,
    last_token,
    streams,
    token,
    whole,
)
from tests.wire.sidecar import Sidecar, running

TIMEOUT = 10
PARAMETERS = {
    "chat_template": '{% for tool in tools or [] %}{{ tool | tojson }}{% endfor %}<tool_call> "arguments"'
    "{{ messages[-1].content }}",
    "bos_token": "<s>",
    "eos_token": "</s>",
}
FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
OTHER = {"type": "function", "function": {"name": "g"}}
PATCHES = {
    "type": "custom",
    "custom": {
        "name": "patch",
        "description": "Edits files.",
        "format": {"type": "grammar", "grammar": {"syntax": "lark", "definition": APPLY_PATCH}},
    },
}
TEXTS = {"type": "custom", "custom": {"name": "write"}}
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>\n'


def custom_call(name: str, text: str) -> str:
    written = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'<tool_call>\n{{"name": "{name}", "arguments": {{"input": "{written}"}}}}\n</tool_call>'


def answering(text: str, **options: Any) -> FakeWorker:
    """A worker that answers with a text, in pieces of three characters."""
    pieces = [text[at : at + 3] for at in range(0, len(text), 3)]
    tokens = [first_token(pieces[0]), *map(token, pieces[1:]), last_token()]
    return FakeWorker(answers(whole(text)), streams(*tokens), parameters=PARAMETERS, **options)


def merged(events: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]], str | None]:
    """The content, the calls and the finish reason of a stream."""
    content, calls, reason = "", list[dict[str, Any]](), None
    for event in events:
        for choice in event["choices"]:
            content += choice["delta"].get("content") or ""
            for delta in choice["delta"].get("tool_calls", ()):
                if "id" in delta:
                    assert delta["index"] == len(calls)
                    kind = delta["type"]
                    calls.append({"id": delta["id"], "type": kind, kind: dict(delta[kind])})
                else:
                    call = calls[delta["index"]]
                    key = {"function": "arguments", "custom": "input"}[call["type"]]
                    call[call["type"]][key] += delta[call["type"]][key]
            reason = choice["finish_reason"] or reason
    return content, calls, reason


async def in_both_modes(sidecar: Sidecar, **body: Any) -> tuple[str, list[Any], str | None]:
    """The content, the calls and the finish reason, which must be the same with and without streaming."""
    reply = await sidecar.chat(**body)
    assert reply.status == 200, reply.body
    (choice,) = reply.json["choices"]
    message = choice["message"]
    answer = message["content"] or "", message.get("tool_calls", []), choice["finish_reason"]
    streamed = merged((await sidecar.chat(**body, stream=True)).events)
    for calls in (answer[1], streamed[1]):
        for call in calls:
            assert call.pop("id").startswith("call_")
    assert streamed == answer
    return answer


async def test_a_call_of_a_custom_tool_has_its_input() -> None:
    async with running(answering("Here:\n" + custom_call("patch", PATCH.replace("\x1b\x7f", "")))) as sidecar:
        content, calls, reason = await in_both_modes(sidecar, tools=[FUNCTION, PATCHES])
    assert (content, reason) == ("Here:", "tool_calls")
    custom = {"name": "patch", "input": PATCH.replace("\x1b\x7f", "")}
    assert calls == [{"type": "custom", "custom": custom}]


async def test_the_model_gets_a_custom_tool_as_a_function_and_its_grammar() -> None:
    worker = answering("x")
    async with running(worker) as sidecar:
        assert (await sidecar.chat(tools=[PATCHES, TEXTS])).status == 200
        assert (await sidecar.chat(tools=[TEXTS])).status == 200
    with_grammar, without = map(inputs_of, worker.requests)
    prompt = with_grammar["prompt"][0].decode()
    assert '"name": "patch"' in prompt
    assert '"input": {"type": "string"' in prompt
    assert "begin_patch hunk+ end_patch" in prompt
    assert b"%lark {" in with_grammar["lark"][0]
    assert "lark" not in without


async def test_a_custom_tool_can_be_required() -> None:
    worker = answering(custom_call("write", "text"))
    async with running(worker) as sidecar:
        choice = {"type": "custom", "custom": {"name": "write"}}
        content, calls, reason = await in_both_modes(sidecar, tools=[FUNCTION, TEXTS], tool_choice=choice)
    assert (content, reason) == ("", "stop")
    assert calls == [{"type": "custom", "custom": {"name": "write", "input": "text"}}]
    assert b'name\\": \\"f' not in inputs_of(worker.requests[0])["lark"][0]


async def test_a_call_of_a_custom_tool_can_be_sent_back() -> None:
    worker = answering(custom_call("write", "text"))
    async with running(worker) as sidecar:
        message = (await sidecar.chat(tools=[TEXTS])).json["choices"][0]["message"]
        result = {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"}
        body = {"messages": [{"role": "user", "content": "x"}, message, result], "tools": [TEXTS]}
        reply = await sidecar.send("POST", "/v1/chat/completions", body)
    assert reply.status == 200, reply.body


REFUSED_DEFINITIONS = [
    ("lark", "start: <|im_end|>", "can't be enforced: line 1"),
    ("lark", "start: missing", "can't be enforced: the grammar has no rule 'missing'"),
    ("regex", "a\\", "can't be enforced: it ends with a backslash"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("syntax", "definition", "problem"), REFUSED_DEFINITIONS)
async def test_a_definition_that_cannot_be_enforced_is_refused(
    stream: bool, syntax: str, definition: str, problem: str
) -> None:
    format = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    tools = [FUNCTION, {"type": "custom", "custom": {"name": "c", "format": format}}]
    async with running(answering("x")) as sidecar:
        reply = await sidecar.chat(tools=tools, stream=stream)
    assert (reply.status, reply.error["param"]) == (400, "tools[1].custom.format.grammar.definition")
    assert problem in reply.error["message"]


async def test_an_error_of_the_backend_names_the_definition() -> None:
    refusal = Refusal(
        "INVALID_ARGUMENT", "tensor 'lark': too complex", tensor="lark", **{contract.ERROR_PART: "function patch"}
    )
    worker = FakeWorker(stream=streams(fails=refusal), parameters=PARAMETERS)
    async with running(worker) as sidecar:
        reply = await sidecar.chat(tools=[FUNCTION, PATCHES])
    assert (reply.status, reply.error["param"]) == (400, "tools[1].custom.format.grammar.definition")


async def test_a_definition_counts_against_the_limit_of_schemas() -> None:
    async with running(answering("x"), max_schema_bytes=500) as sidecar:
        assert (await sidecar.chat(tools=[TEXTS])).status == 200
        reply = await sidecar.chat(tools=[TEXTS, PATCHES])
    assert (reply.status, reply.error["param"]) == (400, "tools[1].custom.format.grammar.definition")


# ---- Tools that may not be called


def allowed(*names: str) -> dict[str, Any]:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": tools}}


@pytest.mark.parametrize("inputs", [ALL_INPUTS, [name for name in ALL_INPUTS if name != contract.LARK.name]])
@pytest.mark.parametrize("choice", [allowed("g"), "none"])
async def test_a_call_that_is_not_allowed_never_leaves_the_server(inputs: list[str], choice: object) -> None:
    worker = FakeWorker(
        answers(whole(f"Hm.\n{CALL}")),
        streams(*(token(character) for character in f"Hm.\n{CALL}"), last_token()),
        parameters=PARAMETERS,
        inputs=inputs,
    )
    async with running(worker) as sidecar:
        answer = await in_both_modes(sidecar, tools=[FUNCTION, OTHER], tool_choice=choice)
    assert answer == ("Hm.", [], "stop")
    assert all(("lark" in inputs_of(request)) == (contract.LARK.name in inputs) for request in worker.requests)


# ---- Repeated calls


class RepeatingWorker(FakeWorker):
    """Repeats a call without end."""

    def __init__(self) -> None:
        super().__init__(stream=self._calls, parameters=PARAMETERS)
        self.n_sent = 0

    async def _calls(self, request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        yield first_token("<tool")
        try:
            yield token(CALL.removeprefix("<tool"))
            while True:
                for at in range(0, len(CALL), 4):
                    self.n_sent += 1
                    yield token(CALL[at : at + 4])
                    await asyncio.sleep(0)
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.put_nowait(request.id)
            raise


@pytest.mark.parametrize("choice", ["required", "auto"])
async def test_a_repeated_call_ends_the_answer_and_cancels_the_backend(choice: str) -> None:
    worker = RepeatingWorker()
    async with running(worker) as sidecar:
        body = {"tools": [FUNCTION, OTHER], "tool_choice": choice}
        reply = await asyncio.wait_for(sidecar.chat(**body), TIMEOUT)
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
        streamed = await asyncio.wait_for(
            sidecar.chat(**body, stream=True, stream_options={"include_usage": True}), TIMEOUT
        )
        await asyncio.wait_for(worker.cancelled.get(), TIMEOUT)
    (answer,) = reply.json["choices"]
    assert answer["finish_reason"] == "tool_calls"
    assert [call["function"] for call in answer["message"]["tool_calls"]] == [{"name": "f", "arguments": '{"a": 1}'}]
    content, calls, reason = merged(streamed.events)
    assert (content, reason) == ("", "tool_calls")
    assert [call["function"] for call in calls] == [{"name": "f", "arguments": '{"a": 1}'}]
    for usage in (reply.json["usage"], streamed.events[-1]["usage"]):
        assert usage["prompt_tokens"] == 3
        assert usage["completion_tokens"] >= 2 + len(CALL) // 4 - 4


async def test_a_choice_that_repeats_a_call_waits_for_the_others() -> None:
    responses = [token(CALL), token("Hello", 1), token(CALL), token(CALL), last_token(" you.", 1, final=False)]
    worker = FakeWorker(stream=streams(*responses, last_token(CALL)), parameters=PARAMETERS)
    async with running(worker) as sidecar:
        reply = await sidecar.chat(tools=[FUNCTION], n=2)
        streamed = await sidecar.chat(tools=[FUNCTION], n=2, stream=True)
    first, second = reply.json["choices"]
    assert len(first["message"]["tool_calls"]) == 1
    assert (second["message"]["content"], second["finish_reason"]) == ("Hello you.", "stop")
    for index, expected in ((0, ("", 1, "tool_calls")), (1, ("Hello you.", 0, "stop"))):
        events = [
            {"choices": [choice for choice in event["choices"] if choice["index"] == index]}
            for event in streamed.events
        ]
        content, calls, reason = merged(events)
        assert (content, len(calls), reason) == expected
