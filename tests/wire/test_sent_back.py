"""Responses can be sent back as messages: those of this server, of OpenAI's and of others."""

from typing import Any

import pytest
from openai.lib.streaming.chat import ChatCompletionStreamState
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.ops.able_worker import able_worker
from tests.wire.fake_worker import FakeWorker, answers, last_token, streams, token, whole
from tests.wire.sidecar import Sidecar, running

QUESTION: dict[str, Any] = {"role": "user", "content": "hi"}
TOOLS = {"tools": [{"type": "function", "function": {"name": "f"}}]}
REQUESTS: list[dict[str, Any]] = [
    {},
    {"logprobs": True, "top_logprobs": 2},
    {**TOOLS, "enable_thinking": True},
    {**TOOLS, "tool_choice": "required"},
    {"functions": [{"name": "f"}]},
    {"n": 2},
]


async def check_accepted(sidecar: Sidecar, message: dict[str, Any]) -> None:
    calls = message.get("tool_calls") or ()
    results = [{"role": "tool", "tool_call_id": call["id"], "content": "sunny"} for call in calls]
    if call := message.get("function_call"):
        results.append({"role": "function", "name": call["name"], "content": "sunny"})
    reply = await sidecar.chat(QUESTION, message, *results, QUESTION, **TOOLS)
    assert reply.status == 200, reply.body
    # @openai/agents writes the message so.
    if message["content"]:
        part = {"type": "text", "text": message["content"], **{k: v for k, v in message.items() if k != "content"}}
        agents_message = {"role": "assistant", "content": [part], "tool_calls": message.get("tool_calls")}
        reply = await sidecar.chat(QUESTION, agents_message, *results, QUESTION, **TOOLS)
        assert reply.status == 200, reply.body


def dumps(message: Any) -> list[dict[str, Any]]:
    """Returns the message as programs write it: with all nulls, without them, and as JSON."""
    return [message.model_dump(), message.model_dump(exclude_unset=True), message.model_dump(mode="json")]


async def test_our_own_messages_are_accepted() -> None:
    async with running(able_worker()) as sidecar:
        for body in REQUESTS:
            reply = await sidecar.chat(QUESTION, **body)
            for choice in ChatCompletion.model_validate(reply.json).choices:
                for message in (reply.json["choices"][choice.index]["message"], *dumps(choice.message)):
                    await check_accepted(sidecar, message)


async def test_our_own_streamed_messages_are_accepted() -> None:
    """The openai package assembles them: tool calls keep their `index`, and are parsed."""
    async with running(able_worker()) as sidecar:
        for body in REQUESTS:
            reply = await sidecar.chat(QUESTION, stream=True, **body)
            state: ChatCompletionStreamState[None] = ChatCompletionStreamState()
            for event in reply.events:
                state.handle_chunk(ChatCompletionChunk.model_validate(event))
            for choice in state.get_final_completion().choices:
                for message in dumps(choice.message):
                    await check_accepted(sidecar, message)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "f"}}])
@pytest.mark.parametrize("text", ["", "<tool", '<tool_call>{"name": "'])
async def test_a_call_truncated_before_its_name_is_accepted(choice: Any, text: str) -> None:
    worker = FakeWorker(
        answers(whole(text, reason="length"), whole("x")), streams(token(text), last_token(reason="length"))
    )
    async with running(worker) as sidecar:
        reply = await sidecar.chat(QUESTION, **TOOLS, tool_choice=choice)
        message = reply.json["choices"][0]["message"]
        assert "tool_calls" not in message
        await check_accepted(sidecar, message)


CALL = {"name": "f", "arguments": '{"a": 1}'}
CITATION = {"type": "url_citation", "url_citation": {"start_index": 0, "end_index": 1, "title": "t", "url": "u"}}
FOREIGN_MESSAGES: list[tuple[dict[str, Any], str]] = [
    # OpenAI's
    (
        {"content": "a", "refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None},
        "a",
    ),
    ({"content": "a", "annotations": [CITATION]}, "a"),
    ({"content": None, "refusal": "no"}, "no"),
    ({"refusal": "no"}, "no"),
    ({"content": "a", "refusal": "no"}, "a\nno"),
    ({"content": "a", "refusal": ""}, "a"),
    ({"content": [{"type": "refusal", "refusal": "no"}]}, "no"),
    ({"content": [{"type": "text", "text": "a"}], "refusal": "no"}, "a\nno"),
    ({"content": [{"type": "output_text", "text": "a", "annotations": [CITATION], "logprobs": []}]}, "a"),
    ({"content": None, "audio": {"id": "audio_1", "data": "AA==", "expires_at": 1, "transcript": "a"}}, "a"),
    (
        {"content": None, "tool_calls": [{"id": "1", "type": "custom", "custom": {"name": "f", "input": '"a"'}}]},
        '<tool_call>\n{"name": "f", "arguments": {"input":"\\"a\\""}}\n</tool_call>',
    ),
    ({"id": "chatcmpl-1-0", "content": "a", "content_parts": None}, "a"),
    # the openai package's, of a parsed response
    ({"content": '{"a": 1}', "parsed": {"a": 1}, "tool_calls": None}, '{"a": 1}'),
    (
        {
            "tool_calls": [
                {"id": "1", "type": "function", "function": {**CALL, "parsed_arguments": {"a": 1}}, "index": 0}
            ]
        },
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
    ),
    # @openai/agents'
    ({"content": [{"type": "text", "text": "a", "annotations": []}]}, "a"),
    ({"content": [{"type": "text", "text": "a", "id": None}]}, "a"),
    ({"content": [{"type": "text", "text": "a", "id": "msg_1", "cache_control": {"type": "ephemeral"}}]}, "a"),
    (
        {
            "content": [
                {
                    "type": "text",
                    "text": "a",
                    "role": "assistant",
                    "refusal": None,
                    "reasoning_content": "r",
                    "annotations": [],
                    "audio": None,
                    "function_call": None,
                    "tool_calls": [{"id": "1"}],
                }
            ],
            "index": 0,
        },
        "(r) a",
    ),
    ({"content": [{"type": "text", "text": "a", "reasoning_content": "s"}], "reasoning": "r"}, "(r) a"),
    ({"content": [{"type": "refusal", "refusal": "no", "content": None, "role": "assistant"}]}, "no"),
    ({"content": [], "audio": {"id": "audio_1", "expires_at": 1, "transcript": "a"}}, "a"),
    ({"content": []}, ""),
    # vLLM's
    ({"content": "a", "reasoning": "r"}, "(r) a"),
    ({"content": "a", "reasoning": "r", "reasoning_content": "r"}, "(r) a"),
    ({"content": "a", "reasoning": None, "reasoning_content": "r"}, "(r) a"),
    ({"content": "a", "reasoning": "r", "reasoning_content": None}, "(r) a"),
    ({"content": "a", "reasoning": "", "reasoning_content": ""}, "a"),
    ({"content": None, "reasoning": "r", "tool_calls": []}, "(r) "),
    ({"content": "a", "annotations": None, "citations": [{"start": 0}]}, "a"),
    # LiteLLM's and OpenRouter's
    ({"content": "a", "provider_specific_fields": {"refusal": None}, "thinking_blocks": None, "images": []}, "a"),
    ({"content": "a", "reasoning_details": None}, "a"),
    # Nothing
    ({}, ""),
    ({"content": None, "tool_calls": []}, ""),
]
TEMPLATE = (
    "{% for m in messages %}{% if m.reasoning_content %}({{ m.reasoning_content }}) {% endif %}{{ m.content }}"
    "{{ m.tool_calls | tojson if m.tool_calls }}{% if not loop.last %}|{% endif %}{% endfor %}"
)


async def test_messages_of_other_servers_are_accepted() -> None:
    async with running(FakeWorker(parameters={"chat_template": TEMPLATE})) as sidecar:
        for message, rendered in FOREIGN_MESSAGES:
            messages = [QUESTION, {"role": "assistant", **message}]
            reply = await sidecar.send("POST", "/apply-template", {"messages": messages})
            assert reply.status == 200, (message, reply.body)
            assert reply.json["prompt"] == f"hi|{rendered}", message
            assert (await sidecar.chat(*messages)).status == 200, message


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"content": "a", "reasoning": "r", "reasoning_content": "s"}, "messages[1].reasoning"),
    ({"content": "a", "reasoning": {}}, "messages[1].reasoning"),
    ({"content": None, "audio": {"id": "audio_1"}}, "messages[1].audio"),
    ({"content": "a", "refusal": 1}, "messages[1].refusal"),
    ({"content": "a", "finish_reason": "stop"}, "messages[1].finish_reason"),
    (
        {"content": [{"type": "text", "text": "a", "cache_control": {"type": "x"}}]},
        "messages[1].content[0].cache_control",
    ),
    ({"content": [{"type": "text", "text": "a", "zzz": None}]}, "messages[1].content[0].zzz"),
    ({"tool_calls": [{"id": "1", "type": "custom", "function": CALL}]}, "messages[1].tool_calls[0].function"),
    ({"tool_calls": [{"id": "1", "type": "custom"}]}, "messages[1].tool_calls[0].custom"),
    ({"tool_calls": [{"id": "1", "type": "zzz"}]}, "messages[1].tool_calls[0].type"),
    ({"content": [{"type": "text", "text": "a", "content": "b"}]}, "messages[1].content[0].content"),
    ({"content": "a", "thinking_blocks": [{"type": "thinking"}]}, "messages[1].thinking_blocks"),
]


async def test_fields_that_no_server_returns_are_refused() -> None:
    async with running(FakeWorker()) as sidecar:
        for message, param in REFUSED:
            reply = await sidecar.chat(QUESTION, {"role": "assistant", **message})
            assert (reply.status, reply.error["param"]) == (400, param)


async def test_only_assistant_messages_have_refusals_and_reasoning() -> None:
    parts: list[tuple[str, dict[str, Any]]] = [
        ("type", {"type": "refusal", "refusal": "x"}),
        ("reasoning_content", {"type": "text", "text": "x", "reasoning_content": "x"}),
    ]
    async with running(FakeWorker()) as sidecar:
        for field, part in parts:
            reply = await sidecar.chat({"role": "user", "content": [part]})
            assert (reply.status, reply.error["param"]) == (400, f"messages[0].content[0].{field}")


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_settings_that_change_nothing_are_accepted(path: str) -> None:
    async with running(FakeWorker()) as sidecar:
        settings: list[dict[str, Any]] = [
            {"suffix": ""},
            {"grammar": ""},
            {"stream_options": {"include_usage": None}},
            {"stream_options": {}},
            {"logit_bias": {"5": None}},
            {"use_beam_search": False, "cache_prompt": True, "id_slot": -1, "include_stop_str_in_output": False},
            {"length_penalty": 1, "dynatemp_range": 0},
            {"length_penalty": 1.0, "dynatemp_range": 0.0},
        ]
        for setting in settings:
            body = {"prompt": "x"} if path == "/v1/completions" else {"messages": [QUESTION]}
            reply = await sidecar.send("POST", path, {**body, **setting})
            assert reply.status == 200, reply.body
        reply = await sidecar.send("POST", path, {**body, "id_slot": False})
        assert (reply.status, reply.error["param"]) == (400, "id_slot")


async def test_responses_of_other_endpoints_are_accepted() -> None:
    async with running(able_worker()) as sidecar:
        ranked = await sidecar.send("POST", "/v1/rerank", {"query": "q", "documents": ["a"], "return_documents": True})
        documents = [result["document"] for result in ranked.json["results"]]
        documents += [{**document, "multi_modal": None} for document in documents]  # as in vLLM's responses
        assert (await sidecar.send("POST", "/v1/rerank", {"query": "q", "documents": documents})).status == 200
        tokens = (await sidecar.send("POST", "/tokenize", {"content": "a"})).json["tokens"]
        assert (await sidecar.send("POST", "/detokenize", {"tokens": tokens})).status == 200
        assert (await sidecar.complete(prompt=tokens)).status == 200
        rendered = (await sidecar.send("POST", "/apply-template", {"messages": [QUESTION]})).json
        assert (await sidecar.complete(**rendered)).status == 200


async def test_a_top_n_of_zero_means_all_as_in_vllm() -> None:
    async with running(able_worker()) as sidecar:
        reply = await sidecar.send("POST", "/v1/rerank", {"query": "q", "documents": ["a", "b"], "top_n": 0})
        assert len(reply.json["results"]) == 2


@pytest.mark.parametrize("content", [None, []])
async def test_an_empty_message_can_not_be_continued(content: Any) -> None:
    async with running(FakeWorker(parameters={"chat_template": TEMPLATE})) as sidecar:
        empty = {"role": "assistant", "content": content}
        reply = await sidecar.chat(QUESTION, empty, continue_final_message=True)
        assert (reply.status, reply.error["param"]) == (400, "continue_final_message")
        assert (await sidecar.chat(QUESTION, {**empty, "refusal": "no"}, continue_final_message=True)).status == 200
