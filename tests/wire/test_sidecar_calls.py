"""Tool calls over HTTP, wherever the response is truncated and however it ends: their markup is never content."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.parsing.tools.examples import EXAMPLES, SINGLE_CALL_FORMATS
from tests.templates import template_paths
from tests.wire.fake_worker import FakeWorker, Refusal, inputs_of, last_token, message, streams, token, whole
from tests.wire.sidecar import Sidecar, running

TEMPLATES = {
    "hermes": "Qwen-Qwen2.5-7B-Instruct",
    "generic": "google-gemma-2-2b-it",
    "granite": "ibm-granite-granite-3.3-2B-Instruct",
    "nemotron": "NVIDIA-Nemotron-Nano-v2",
    "apriel": "MiniMax-M1",
    "gigachat": "GigaChat3.1-10B-A1.8B",
    "mistral-list": "mistralai-Mistral-Nemo-Instruct-2407",
    "mistral": "unsloth-mistral-Devstral-Small-2507",
    "mistral-ids": "Mistral-Small-3.2-24B-Instruct-2506",
    "llama-json": "meta-llama-Llama-3.1-8B-Instruct",
    "lfm2": "LFM2-8B-A1B",
    "command-r": "CohereForAI-c4ai-command-r-plus-tool_use",
    "command-r7b": "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
    "cohere2": "Cohere2MoE",
    "deepseek-v3.2": "deepseek-ai-DeepSeek-V3.2",
    "deepseek-v4": "deepseek-ai-DeepSeek-V4",
    "kimi": "moonshotai-Kimi-K2",
    "functionary-v3.1": "meetkai-functionary-medium-v3.1",
    "functionary-v3.2": "meetkai-functionary-medium-v3.2",
    "qwen3-coder": "Qwen3-Coder",
    "seed": "ByteDance-Seed-OSS",
    "minimax-m2": "MiniMax-M2",
    "glm": "GLM-4.6",
    "harmony": "openai-gpt-oss-120b",
}
"""A template for each format that a template of the corpus with tools uses."""

REASONING_END_TAGS = {"nemotron": "</think>", "cohere2": "<|END_THINKING|>", "minimax-m2": "</think>"}
"""Templates whose prompt begins the reasoning, with the tag that ends it."""

CITY = {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "The weather", "parameters": CITY}
NOW = {"name": "now", "description": "The time"}
TOOLS = [{"type": "function", "function": WEATHER}, {"type": "function", "function": NOW}]
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
NAMED = {"type": "function", "function": {"name": "get_weather"}}
HERMES = '{% for tool in tools %}{{ tool | tojson }}{% endfor %}<tool_call> "arguments"{{ messages[-1].content }}'
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


class TextWorker(FakeWorker):
    """Answers with `text`, whole or in pieces of `size` characters, and the finish reason `reason`; None: no reason is
    sent."""

    def __init__(self, template: str = HERMES) -> None:
        parameters = {"chat_template": template, "bos_token": "<s>", "eos_token": "</s>"}
        super().__init__(self._whole, self._pieces, parameters=parameters)
        self.text, self.size = "", 3
        self.reason: str | None = "length"

    async def _whole(self, _: ModelInferRequest) -> ModelInferResponse:
        if self.reason is None:
            return message((contract.TEXT, [self.text.encode()]))
        return whole(self.text, reason=self.reason)

    async def _pieces(self, _: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for at in range(0, len(self.text), self.size):
            piece = self.text[at : at + self.size]
            yield token(piece) if self.reason else message((contract.TOKEN, [piece.encode()]))
        yield last_token(reason=self.reason) if self.reason else message(final=True)


def merge(events: list[dict[str, Any]]) -> tuple[dict[str, Any], str | None]:
    """Merges the deltas of a stream into a message; returns it with its finish_reason."""
    content: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": [], "function_call": None}
    reason = None
    for event in events:
        for choice in event["choices"]:
            delta = choice["delta"]
            content["content"] += delta.get("content") or ""
            content["reasoning_content"] += delta.get("reasoning_content") or ""
            if part := delta.get("function_call"):
                content["function_call"] = content["function_call"] or {"name": part["name"], "arguments": ""}
                content["function_call"]["arguments"] += part["arguments"]
            for part in delta.get("tool_calls", ()):
                if "id" in part:
                    content["tool_calls"].append([part["function"]["name"], ""])
                content["tool_calls"][part["index"]][1] += part["function"]["arguments"]
            reason = choice["finish_reason"] or reason
    return content, reason


def as_merged(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "content": message["content"] or "",
        "reasoning_content": message.get("reasoning_content", ""),
        "tool_calls": [
            [call["function"]["name"], call["function"]["arguments"]] for call in message.get("tool_calls", ())
        ],
        "function_call": message.get("function_call"),
    }


async def chat_in_both_modes(sidecar: Sidecar, **body: Any) -> tuple[dict[str, Any], str | None]:
    """Returns the message and its finish_reason, which must be the same with and without streaming."""
    body = {"tools": TOOLS, **body}
    reply = await sidecar.chat(**body)
    assert reply.status == 200, reply.body
    (choice,) = reply.json["choices"]
    streamed = await sidecar.chat(**body, stream=True)
    assert merge(streamed.events) == (as_merged(choice["message"]), choice["finish_reason"])
    return choice["message"], choice["finish_reason"]


@pytest.mark.parametrize(
    "name", [name if name == "hermes" else pytest.param(name, marks=pytest.mark.slow) for name in TEMPLATES]
)
async def test_a_truncated_required_call_has_no_content(name: str) -> None:
    worker = TextWorker(template_paths()[TEMPLATES[name]].read_text())
    text = EXAMPLES[name].single if name in SINGLE_CALL_FORMATS else EXAMPLES[name].both
    text = REASONING_END_TAGS.get(name, "") + text
    async with running(worker) as sidecar:
        for end in [*range(1, len(text), 5), len(text)]:
            worker.text = text[:end]
            worker.size = 1 + end % 4
            choice = "required" if end % 2 else NAMED
            answer, reason = await chat_in_both_modes(sidecar, tool_choice=choice)
            assert answer["content"] is None, worker.text
            assert reason == "length"
            for call in answer.get("tool_calls", ()):
                assert call["function"]["name"] in ("get_weather", "now")
        assert answer["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": '{"city": "Paris"}'}


@pytest.mark.slow
@pytest.mark.parametrize("reason", ["length", "stop"])
async def test_an_optional_call_has_text_up_to_the_marker(reason: str) -> None:
    worker = TextWorker()
    worker.reason = reason
    async with running(worker) as sidecar:
        for end in range(len(CALL)):
            worker.text = f"I look.\n{CALL[:end]}"
            answer, _ = await chat_in_both_modes(sidecar)
            begun = end >= len("<tool_call>")
            assert answer["content"] == ("I look." if begun else f"I look.\n{CALL[:end]}")
            assert ("tool_calls" in answer) == (end > CALL.index("get_weather") + len("get_weather"))
            worker.text = f"{CALL}\n{CALL[:end]}"
            assert (await chat_in_both_modes(sidecar))[0]["content"] is None


async def test_a_truncated_call_is_delivered_as_far_as_it_came() -> None:
    worker = TextWorker()
    async with running(worker) as sidecar:
        for text, arguments in ((CALL.split(",")[0], ""), (CALL.split("aris")[0], '{"city": "P')):
            worker.text = text
            for body in ({}, {"tool_choice": "required"}, {"tool_choice": NAMED}):
                answer, reason = await chat_in_both_modes(sidecar, **body)
                assert answer["tool_calls"][0]["function"] == {"name": "get_weather", "arguments": arguments}
                assert (answer["content"], reason) == (None, "length")


async def test_a_truncated_call_of_the_older_api_has_no_markup_either() -> None:
    worker = TextWorker()
    body: dict[str, Any] = {"tools": None, "functions": [WEATHER, NOW], "function_call": {"name": "get_weather"}}
    async with running(worker) as sidecar:
        for end in range(1, len(CALL), 3):
            worker.text = CALL[:end]
            answer, _ = await chat_in_both_modes(sidecar, **body)
            assert answer["content"] is None
        assert answer["function_call"]["name"] == "get_weather"


@pytest.mark.slow
async def test_truncated_reasoning_before_a_required_call_is_no_content() -> None:
    worker = TextWorker(template_paths()["Qwen-Qwen3-0.6B"].read_text())
    text = f"<think>\nI think.\n</think>\n\n{CALL}"
    async with running(worker) as sidecar:
        for end in range(len(text)):
            worker.text = text[:end]
            answer, _ = await chat_in_both_modes(sidecar, tool_choice="required")
            assert answer["content"] is None


@pytest.mark.usefixtures("both_kinds_of_stream")
@pytest.mark.parametrize("body", [{}, {"tool_choice": "required"}])
async def test_a_failure_midway_delivers_no_markup(body: dict[str, Any]) -> None:
    for text in ("<tool_ca", CALL[:14], CALL[:-5]):
        worker = TextWorker()
        worker._stream = streams(*map(token, text), fails=Refusal("INTERNAL", "secret"))
        async with running(worker) as sidecar:
            reply = await sidecar.chat(tools=TOOLS, stream=True, **body)
        if reply.status != 200:  # nothing had been delivered
            assert reply.error["code"] == "backend_error"
        else:
            assert reply.events[-1]["error"]["code"] == "backend_error"
            assert merge(reply.events[:-1])[0]["content"] == ""


async def test_a_client_that_disconnects_midway_has_received_no_markup() -> None:
    worker = TextWorker()

    async def stream(_: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        for character in CALL[:-5]:
            yield token(character)
        await asyncio.Event().wait()

    worker._stream = stream
    async with running(worker) as sidecar:
        call = sidecar.start("POST", "/v1/chat/completions", {**CHAT, "tools": TOOLS, "stream": True})
        await asyncio.wait_for(call.until(b'"arguments":"P"'), 30)
        call.disconnect()
        await asyncio.wait_for(call.task, 30)
    assert b"tool_call>" not in call.reply.body


@pytest.mark.parametrize("text", [f"I look.\n{CALL[:-4]}", "I look. <tool_c", "Wait. ", CALL[:40], CALL[:60]])
async def test_a_backend_that_sends_no_finish_reason_is_supported(text: str) -> None:
    """The end of the stream is then the end of the text."""
    worker = TextWorker()
    worker.text, worker.reason = text, None
    async with running(worker) as sidecar:
        _, reason = await chat_in_both_modes(sidecar)
    assert reason is None


# ---- Tools without parameters


@pytest.mark.parametrize(
    "arguments", ["", ', "arguments": {}', ', "arguments": null', ', "arguments": ""', ', "arguments": []']
)
async def test_missing_arguments_are_an_empty_object(arguments: str) -> None:
    worker = TextWorker()
    worker.text, worker.reason = f'<tool_call>\n{{"name": "now"{arguments}}}\n</tool_call>', "stop"
    async with running(worker) as sidecar:
        for body in ({}, {"tool_choice": "required"}):
            answer, reason = await chat_in_both_modes(sidecar, **body)
            assert answer["tool_calls"][0]["function"] == {"name": "now", "arguments": "{}"}
            assert reason == "tool_calls"
        worker.text = worker.text.partition(",")[0]  # the model ended there itself
        assert (await chat_in_both_modes(sidecar))[0]["tool_calls"][0]["function"]["arguments"] == "{}"


@pytest.mark.parametrize(
    "parameters", [None, {}, {"type": "object"}, {"type": "object", "properties": {}}, {"properties": None}]
)
@pytest.mark.parametrize("name", ["generic", "hermes", "qwen3-coder", "seed"])
async def test_a_tool_without_parameters_takes_no_arguments(name: str, parameters: Any) -> None:
    worker = TextWorker(template_paths()[TEMPLATES[name]].read_text())
    now = {**NOW, "parameters": parameters}
    older = {"functions": [now], "function_call": {"name": "now"}}
    async with running(worker) as sidecar:
        for body in ({"tools": [{"type": "function", "function": now}], "tool_choice": "required"}, older):
            assert (await sidecar.chat(**body)).status == 200
            request = inputs_of(worker.requests[-1])
            assert b"%json" not in request["lark"][0]
            assert b"parameter=" not in request["lark"][0]
            assert b'"value"' not in request["prompt"][0]
