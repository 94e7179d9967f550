"""The newest `anthropic` package with the whole pair."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, TextBlock, ThinkingBlock, ToolParam, ToolUseBlock

from tests.e2e.conftest import SMOLLM2, Pair
from tests.openai_server.api.messages.package import check

QUESTION: MessageParam = {"role": "user", "content": "Name three colours."}
WEATHER: ToolParam = {
    "name": "get_weather",
    "description": "The current weather in a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}


@pytest.fixture
def client(pair: Pair) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=pair.url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def exact_client(exact_pair: Pair) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=exact_pair.url, api_key="none", max_retries=0) as client:
        yield client


def greedy(**fields: Any) -> dict[str, Any]:
    """Returns fields that the package no longer types."""
    return {"temperature": 0, **fields}


def prompt_tokens(usage: anthropic.types.Usage) -> int:
    return usage.input_tokens + (usage.cache_read_input_tokens or 0)


def test_a_stream_has_the_text_of_the_whole_answer(exact_client: anthropic.Anthropic) -> None:
    request: Any = {"model": SMOLLM2, "messages": [QUESTION], "max_tokens": 24, "extra_body": greedy()}
    answer = exact_client.messages.create(**request)
    check(anthropic.types.Message, json.loads(answer.to_json()))
    [block] = answer.content
    assert isinstance(block, TextBlock)
    with exact_client.messages.stream(**request) as stream:
        text = "".join(stream.text_stream)
        streamed = stream.get_final_message()
    assert text == block.text
    assert (streamed.stop_reason, streamed.usage.output_tokens) == (answer.stop_reason, answer.usage.output_tokens)
    assert prompt_tokens(streamed.usage) == prompt_tokens(answer.usage)


def test_the_first_event_has_the_tokens_of_the_prompt(client: anthropic.Anthropic) -> None:
    system = "Unlike any other prompt."
    with client.messages.create(model=SMOLLM2, system=system, messages=[QUESTION], max_tokens=4, stream=True) as stream:
        start, *_ = list(stream)
    assert start.type == "message_start"
    counted = client.messages.count_tokens(model=SMOLLM2, system=system, messages=[QUESTION])
    assert prompt_tokens(start.message.usage) == counted.input_tokens


def test_a_required_tool_is_called_and_its_result_is_read(client: anthropic.Anthropic) -> None:
    request: Any = {"model": SMOLLM2, "tools": [WEATHER], "max_tokens": 60, "extra_body": greedy()}
    question: MessageParam = {"role": "user", "content": "What is the weather in Paris?"}
    choice: Any = {"type": "tool", "name": "get_weather"}
    with client.messages.stream(**request, messages=[question], tool_choice=choice) as stream:
        answer = stream.get_final_message()
    [call] = answer.content
    assert isinstance(call, ToolUseBlock)
    assert (call.name, answer.stop_reason) == ("get_weather", "tool_use")
    assert call.input.keys() == {"city"}
    assert call.id.startswith("toolu_")
    result: Any = {"type": "tool_result", "tool_use_id": call.id, "content": "20 °C, sunny"}
    messages: Any = [question, answer.to_param(), {"role": "user", "content": [result]}]
    second = client.messages.create(**request, messages=messages)
    assert second.content
    counted = client.messages.count_tokens(model=SMOLLM2, tools=[WEATHER], messages=messages)
    assert counted.input_tokens == prompt_tokens(second.usage)


def test_a_stop_sequence_is_reported(exact_client: anthropic.Anthropic) -> None:
    request: Any = {"model": SMOLLM2, "messages": [QUESTION], "max_tokens": 24, "extra_body": greedy()}
    [block] = exact_client.messages.create(**request).content
    assert isinstance(block, TextBlock)
    stop = block.text.strip()[4:7]
    answer = exact_client.messages.create(**request, stop_sequences=["@@@", stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)
    assert (
        "".join(part.text for part in answer.content if isinstance(part, TextBlock))
        == block.text[: block.text.index(stop)]
    )
    with exact_client.messages.stream(**request, stop_sequences=["@@@", stop]) as stream:
        streamed = stream.get_final_message()
    assert (streamed.stop_reason, streamed.stop_sequence) == ("stop_sequence", stop)


def test_the_reason_shows_whether_the_limit_or_the_context_ended_the_answer(client: anthropic.Anthropic) -> None:
    endless = greedy(ignore_eos=True)
    short = client.messages.create(model=SMOLLM2, messages=[QUESTION], max_tokens=3, extra_body=endless)
    assert (short.stop_reason, short.usage.output_tokens) == ("max_tokens", 3)
    long: MessageParam = {"role": "user", "content": "fox " * 2000}
    full = client.messages.create(model=SMOLLM2, messages=[long], max_tokens=500, extra_body=endless)
    assert full.stop_reason == "model_context_window_exceeded"
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(model=SMOLLM2, messages=[long, long], max_tokens=1)
    assert caught.value.body is not None
    message = json.loads(json.dumps(caught.value.body))["error"]["message"]
    words = message.split()
    assert words[:4] == ["prompt", "is", "too", "long:"]
    assert int(words[4]) > int(words[7]) == 2048
    assert caught.value.request_id == caught.value.response.headers["request-id"]


def test_a_format_is_followed(client: anthropic.Anthropic) -> None:
    schema = {
        "type": "object",
        "properties": {"animal": {"type": "boolean"}},
        "required": ["animal"],
        "additionalProperties": False,
    }
    answer = client.messages.create(
        model=SMOLLM2,
        messages=[{"role": "user", "content": "Is a fox an animal?"}],
        max_tokens=20,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )
    [block] = answer.content
    assert isinstance(block, TextBlock)
    assert json.loads(block.text).keys() == {"animal"}


def test_an_answer_at_the_end_is_continued(client: anthropic.Anthropic) -> None:
    begun: MessageParam = {"role": "assistant", "content": "The colours are red, green and"}
    answer = client.messages.create(model=SMOLLM2, messages=[QUESTION, begun], max_tokens=4, extra_body=greedy())
    [block] = answer.content
    assert isinstance(block, TextBlock)
    assert not block.text.startswith("The colours")
    counted = client.messages.count_tokens(model=SMOLLM2, messages=[QUESTION, begun])
    assert counted.input_tokens == prompt_tokens(answer.usage)


def test_thinking_is_for_models_that_reason(client: anthropic.Anthropic) -> None:
    request: Any = {"model": SMOLLM2, "messages": [QUESTION], "max_tokens": 4}
    configs: list[Any] = [
        {"type": "adaptive", "display": "omitted"},
        {"type": "between_tools"},
        {"type": "disabled"},
    ]
    for thinking in configs:
        answer = client.messages.create(**request, thinking=thinking, output_config={"effort": "high"})
        assert not [block for block in answer.content if isinstance(block, ThinkingBlock)]
    with pytest.raises(anthropic.BadRequestError, match="'thinking'"):
        client.messages.create(**request, thinking={"type": "enabled", "budget_tokens": 1024})


def test_the_package_raises_its_own_errors(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="none", messages=[QUESTION], max_tokens=4)
    with pytest.raises(anthropic.BadRequestError, match="max_tokens"):
        client.messages.create(model=SMOLLM2, messages=[QUESTION], max_tokens=-1)
