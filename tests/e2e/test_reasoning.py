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


def complete(client: OpenAI, *, think: bool, **body: Any) -> Any:
    return client.chat.completions.create(
        model=SMOLLM2, messages=MESSAGES, temperature=0, extra_body={"enable_thinking": think}, **body
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
