"""Reasoning through a chat template that begins it, with a real model: where it is returned, and how it's counted."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import OpenAI

from tests.e2e import servers
from tests.e2e.conftest import SMOLLM2

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking %}<think>\n{% endif %}"
    "{# a thought ends with </think> #}"
)
MESSAGES: list[Any] = [{"role": "user", "content": "Is a fox an animal?"}]
YES_OR_NO = {
    "type": "object",
    "properties": {"animal": {"type": "boolean"}},
    "required": ["animal"],
    "additionalProperties": False,
}
REASONING_END_TOKENS = ("9617", "17400", "46")
"""Tokens of `</think>`."""


@pytest.fixture(scope="module")
def client(exact_address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenAI]:
    template: Path = tmp_path_factory.mktemp("template") / "thinks.jinja"
    template.write_text(TEMPLATE)
    with (
        servers.sidecar(exact_address, "--chat-template", str(template)) as (_, url),
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def complete(client: OpenAI, *, think: bool, extra: dict[str, Any] | None = None, **body: Any) -> Any:
    return client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, temperature=0, extra_body={"enable_thinking": think, **(extra or {})}, **body
    )


def test_reasoning_without_an_end_is_the_whole_response(client: OpenAI) -> None:
    completion = complete(client, think=True, max_tokens=12)
    message = completion.choices[0].message
    assert (message.content, completion.choices[0].finish_reason) == ("", "length")
    assert message.reasoning_content
    assert completion.usage.completion_tokens_details.reasoning_tokens == completion.usage.completion_tokens == 12


def test_without_reasoning_no_reasoning_tokens_are_counted(client: OpenAI) -> None:
    completion = complete(client, think=False, max_tokens=12)
    assert completion.choices[0].message.content
    assert "reasoning_content" not in completion.choices[0].message.model_dump(exclude_unset=True)
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("think", [True, False])
def test_a_stream_has_the_same_text_and_counts(client: OpenAI, think: bool) -> None:
    whole = complete(client, think=think, max_tokens=20)
    content, reasoning, usage = "", "", None
    for chunk in complete(client, think=think, max_tokens=20, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    message = whole.choices[0].message
    assert (content, reasoning) == (message.content, getattr(message, "reasoning_content", ""))
    assert usage == whole.usage


def test_the_content_after_the_reasoning_fits_the_schema(client: OpenAI) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": YES_OR_NO}}
    end_bias = dict.fromkeys(REASONING_END_TOKENS, 8)  # this model doesn't end its reasoning by itself
    for think, bias in ((True, end_bias), (False, {})):
        completion = complete(client, think=think, max_tokens=60, response_format=format, logit_bias=bias)
        assert set(json.loads(completion.choices[0].message.content)) == {"animal"}
        n_reasoning = completion.usage.completion_tokens_details.reasoning_tokens
        assert (0 < n_reasoning < completion.usage.completion_tokens) == think


N_END_TAG = len(REASONING_END_TOKENS)


@pytest.mark.parametrize("field", ["thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens"])
@pytest.mark.parametrize("budget", [0, 6])
def test_reasoning_ends_at_its_limit_and_an_answer_follows(client: OpenAI, field: str, budget: int) -> None:
    completion = complete(client, think=True, extra={field: budget}, max_tokens=24, n=2)
    free = complete(client, think=True, extra={field: -1}, max_tokens=6).choices[0].message.reasoning_content
    for choice in completion.choices:
        assert getattr(choice.message, "reasoning_content", "") == (free if budget else "")
        assert choice.message.content
        assert "</think>" not in choice.message.content
    assert completion.usage.completion_tokens_details.reasoning_tokens == 2 * (budget + N_END_TAG)


def test_a_limited_stream_has_the_same_text_and_counts(client: OpenAI) -> None:
    body: dict[str, Any] = {"think": True, "extra": {"thinking_token_budget": 6}, "max_tokens": 24}
    whole = complete(client, **body)
    content, reasoning, usage = "", "", None
    for chunk in complete(client, **body, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    assert (content, reasoning) == (whole.choices[0].message.content, whole.choices[0].message.reasoning_content)
    assert usage == whole.usage


def test_a_limit_leads_to_content_that_fits_the_schema(client: OpenAI) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": YES_OR_NO}}
    limit = {"thinking_token_budget": 8}
    completion = complete(client, think=True, extra=limit, max_tokens=60, response_format=format)
    assert set(json.loads(completion.choices[0].message.content)) == {"animal"}
    assert completion.usage.completion_tokens_details.reasoning_tokens == 8 + N_END_TAG


def test_a_limit_leads_to_the_required_call(client: OpenAI) -> None:
    tool = {"type": "function", "function": {"name": "answer", "parameters": YES_OR_NO}}
    limit = {"thinking_token_budget": 8}
    completion = complete(
        client, think=True, extra=limit, max_tokens=80, tools=[tool], tool_choice="required", parallel_tool_calls=False
    )
    (call,) = completion.choices[0].message.tool_calls
    assert set(json.loads(call.function.arguments)) == {"animal"}
    assert completion.choices[0].message.reasoning_content


def test_a_limit_does_not_matter_without_reasoning(client: OpenAI) -> None:
    free = complete(client, think=False, max_tokens=12)
    limited = complete(client, think=False, extra={"thinking_token_budget": 0}, max_tokens=12)
    assert limited.choices[0].message == free.choices[0].message
    assert limited.usage.completion_tokens_details.reasoning_tokens == 0
