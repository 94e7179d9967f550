"""Reasoning through a chat template that begins a thought, with a real model: where it goes, and what it counts."""

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
END_OF_THOUGHT = ("9617", "17400", "46")
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


def ask(client: OpenAI, *, think: bool, **body: Any) -> Any:
    return client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, temperature=0, extra_body={"enable_thinking": think}, **body
    )


def test_a_thought_without_an_end_is_all_there_is(client: OpenAI) -> None:
    answer = ask(client, think=True, max_tokens=12)
    message = answer.choices[0].message
    assert (message.content, answer.choices[0].finish_reason) == ("", "length")
    assert message.reasoning_content
    assert answer.usage.completion_tokens_details.reasoning_tokens == answer.usage.completion_tokens == 12


def test_without_a_thought_nothing_is_counted(client: OpenAI) -> None:
    answer = ask(client, think=False, max_tokens=12)
    assert answer.choices[0].message.content
    assert "reasoning_content" not in answer.choices[0].message.model_dump(exclude_unset=True)
    assert answer.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("think", [True, False])
def test_a_stream_says_the_same_and_counts_the_same(client: OpenAI, think: bool) -> None:
    whole = ask(client, think=think, max_tokens=20)
    content, reasoning, usage = "", "", None
    for chunk in ask(client, think=think, max_tokens=20, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            content += choice.delta.content or ""
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
    message = whole.choices[0].message
    assert (content, reasoning) == (message.content, getattr(message, "reasoning_content", ""))
    assert usage == whole.usage


def test_content_is_held_to_a_schema_behind_the_thought(client: OpenAI) -> None:
    format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": YES_OR_NO}}
    end = dict.fromkeys(END_OF_THOUGHT, 8)  # This model has not learnt to end a thought.
    for thinks, bias in ((True, end), (False, {})):
        answer = ask(client, think=thinks, max_tokens=60, response_format=format, logit_bias=bias)
        assert set(json.loads(answer.choices[0].message.content)) == {"animal"}
        n_thought = answer.usage.completion_tokens_details.reasoning_tokens
        assert (0 < n_thought < answer.usage.completion_tokens) == thinks
