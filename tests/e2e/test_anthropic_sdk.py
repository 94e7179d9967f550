"""The anthropic package beyond single requests, which test_messages.py tries: tool runner, types, async client."""

import asyncio
from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from anthropic import beta_tool
from anthropic.types import MessageParam
from pydantic import BaseModel

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair

QUESTION: MessageParam = {"role": "user", "content": "Name three colours."}


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sunny: bool


@pytest.fixture
def client(pair: Pair) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=pair.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_limit_beyond_the_context_is_accepted(client: anthropic.Anthropic) -> None:
    """Agents send their own limit for models that they have no facts about."""
    message = client.messages.create(
        model=SMOLLM2,
        max_tokens=32000,
        messages=[{"role": "user", "content": "Answer with one word: yes or no?"}],
        extra_body={"temperature": 0},
        timeout=60,
    )
    assert message.stop_reason == "end_turn"


def test_the_tool_runner_gets_the_whole_conversation(client: anthropic.Anthropic) -> None:
    """By default it expects the server to keep the conversation; a refusal of that makes it send everything."""
    seen = []

    @beta_tool
    def weather(city: Literal["Paris", "Rome"]) -> str:
        """Returns the weather of a city.

        Args:
            city: The city.
        """
        seen.append(city)
        return "sunny"

    runner = client.beta.messages.tool_runner(
        model=SMOLLM2,
        max_tokens=200,
        messages=[{"role": "user", "content": "What is the weather in Rome?"}],
        tools=[weather],
        tool_choice={"type": "any", "disable_parallel_tool_use": True},
        max_iterations=2,
    )
    messages = list(runner)
    assert len(messages) == 2
    assert messages[1].usage.input_tokens + (messages[1].usage.cache_read_input_tokens or 0) > (
        messages[0].usage.input_tokens + (messages[0].usage.cache_read_input_tokens or 0)
    )
    assert set(seen) <= {"Paris", "Rome"}
    assert seen


def test_structured_output_is_parsed(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(
        model=SMOLLM2,
        max_tokens=200,
        messages=[{"role": "user", "content": "Is it sunny in Paris?"}],
        output_format=Weather,
    )
    assert isinstance(message.parsed_output, Weather)


def test_models_are_listed_in_anthropics_form(client: anthropic.Anthropic) -> None:
    models = client.models.list()
    assert [model.id for model in models] == [SMOLLM2, GEMMA3]
    assert all(model.type == "model" and model.display_name for model in models)
    assert client.models.retrieve(SMOLLM2).id == SMOLLM2


async def test_many_async_streams_at_once_are_answered(pair: Pair) -> None:
    async with anthropic.AsyncAnthropic(base_url=pair.url, api_key="none", max_retries=0) as client:

        async def stream(i: int) -> str:
            async with client.messages.stream(
                model=SMOLLM2, max_tokens=10, messages=[{"role": "user", "content": f"Say the number {i}."}]
            ) as events:
                return await events.get_final_text()

        texts = await asyncio.gather(*(stream(i) for i in range(12)))
    assert all(texts)


def test_betas_are_accepted(client: anthropic.Anthropic) -> None:
    request: Any = {"model": SMOLLM2, "messages": [QUESTION, {"role": "system", "content": "Be brief."}]}
    clearing: Any = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    betas = ["context-management-2025-06-27"]
    message = client.beta.messages.create(max_tokens=8, betas=betas, context_management=clearing, **request)
    assert message.content
    counted = client.beta.messages.count_tokens(betas=betas, **request)
    assert counted.input_tokens == client.messages.count_tokens(**request).input_tokens
