"""Required and named calls of real models, truncated after every number of tokens: no markup is content."""

from typing import Any

import pytest
from openai import OpenAI

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

WEATHER = {
    "name": "get_weather",
    "parameters": {"type": "object", "properties": {"city": {"enum": ["Paris", "Rome"]}}, "required": ["city"]},
}
NOW = {"name": "get_time"}
TOOLS: list[Any] = [{"type": "function", "function": function} for function in (WEATHER, NOW)]
NAMED: Any = {"type": "function", "function": {"name": "get_weather"}}
MESSAGES: list[Any] = [{"role": "user", "content": "Rome?"}]


def streamed(client: OpenAI, **body: Any) -> tuple[str, list[list[str]], str | None]:
    content, calls, reason = "", [], None
    for chunk in client.chat.completions.create(messages=MESSAGES, temperature=0, stream=True, **body):
        for choice in chunk.choices:
            content += choice.delta.content or ""
            for part in choice.delta.tool_calls or ():
                if part.id:
                    calls.append([part.function.name, ""])
                calls[part.index][1] += part.function.arguments
            reason = choice.finish_reason or reason
    return content, calls, reason


def whole(client: OpenAI, **body: Any) -> tuple[str | None, list[list[str]], str | None]:
    (choice,) = client.chat.completions.create(messages=MESSAGES, temperature=0, **body).choices
    calls = [[call.function.name, call.function.arguments] for call in choice.message.tool_calls or ()]
    return choice.message.content, calls, choice.finish_reason


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
def test_a_call_truncated_anywhere_has_no_markup_as_content(pair: Pair, model: str) -> None:
    with OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        body: dict[str, Any] = {"model": model, "tools": TOOLS, "parallel_tool_calls": False}
        n = 0
        reason: str | None = "length"
        while reason == "length":
            n += 1
            assert n < 60
            body["tool_choice"] = NAMED if n % 2 else "required"
            content, calls, reason = whole(client, max_tokens=n, **body)
            assert content is None
            # Rounding may change a model's text between two requests. A scripted worker in tests/wire checks that both
            # modes parse one text in the same way.
            text, same_calls, _ = streamed(client, max_tokens=n, **body)
            assert text == ""
            assert {name for name, _ in calls + same_calls} <= {"get_weather", "get_time"}
        assert len(calls) == 1


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
@pytest.mark.parametrize("parameters", [None, {"type": "object"}])
def test_a_call_without_parameters_has_an_empty_object(pair: Pair, model: str, parameters: Any) -> None:
    tools: list[Any] = [{"type": "function", "function": {"name": "get_time", "parameters": parameters}}]
    with OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        body = {"model": model, "tools": tools, "tool_choice": "required", "parallel_tool_calls": False}
        _, calls, _ = whole(client, max_tokens=60, **body)
        assert calls == [["get_time", "{}"]]
