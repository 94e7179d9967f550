"""`/v1/responses` of the whole pair, with the newest `openai` package."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import Response, ResponseCustomToolCall, ResponseFunctionToolCall
from pydantic import BaseModel

from tests.e2e.conftest import SMOLLM2, Pair

QUESTION = "Name three colours."
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "Returns the weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


class Weather(BaseModel):
    city: Literal["Paris", "Rome"]
    sunny: bool


@pytest.fixture
def client(pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def exact_client(exact_pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{exact_pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def turns(*items: Any) -> Any:
    """Returns input items; the package has a type for each of its outputs as an input, and converts none of them."""
    return list(items)


def calls(response: Response) -> list[ResponseFunctionToolCall]:
    return [item for item in response.output if item.type == "function_call"]


def test_a_response_has_text_and_usage(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2, instructions="Be brief.", input="Answer with one word: yes or no?", temperature=0
    )
    assert (response.object, response.status, response.model) == ("response", "completed", SMOLLM2)
    assert response.output_text
    assert response.usage is not None
    assert response.usage.output_tokens > 0
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens


def test_a_response_that_reaches_its_limit_is_incomplete(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2, input="Tell me a long story.", temperature=0, max_output_tokens=16
    )
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 16
    assert response.output[-1].type == "message"
    assert response.output[-1].status == "incomplete"


def test_a_stream_is_the_whole_response_in_pieces(exact_client: openai.OpenAI) -> None:
    whole = exact_client.responses.create(model=SMOLLM2, input=QUESTION, temperature=0, max_output_tokens=24)
    events = list(
        exact_client.responses.create(model=SMOLLM2, input=QUESTION, temperature=0, max_output_tokens=24, stream=True)
    )
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 4
    assert "".join(deltas) == whole.output_text
    final = events[-1]
    assert final.type in ("response.completed", "response.incomplete")
    assert final.response.output_text == whole.output_text
    assert final.response.usage is not None
    assert whole.usage is not None
    assert final.response.usage.output_tokens == whole.usage.output_tokens


def test_the_stream_helper_assembles_the_same_response(client: openai.OpenAI) -> None:
    """The helper accepts only responses that completed, so this one ends by itself."""
    request: Any = {"model": SMOLLM2, "input": "Answer with one word: yes or no?", "temperature": 0}
    with client.responses.stream(**request) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        assert text == stream.get_final_response().output_text
    assert text


def test_structured_output_is_parsed(client: openai.OpenAI) -> None:
    response = client.responses.parse(model=SMOLLM2, input="Is it sunny in Paris?", text_format=Weather)
    assert isinstance(response.output_parsed, Weather)
    assert response.output_parsed.city in ("Paris", "Rome")


def test_structured_output_is_parsed_from_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(model=SMOLLM2, input="Is it sunny in Paris?", text_format=Weather) as stream:
        assert isinstance(stream.get_final_response().output_parsed, Weather)


def test_a_function_is_called_and_its_result_answered(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2,
        input="What is the weather in Rome?",
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=0,
    )
    (call,) = calls(response)
    assert call.name == "weather"
    assert Weather.model_validate({**json.loads(call.arguments), "sunny": True})
    follow_up = client.responses.create(
        model=SMOLLM2,
        input=turns(
            {"role": "user", "content": "What is the weather in Rome?"},
            *response.output,
            {"type": "function_call_output", "call_id": call.call_id, "output": "sunny"},
        ),
        tools=[WEATHER],
        tool_choice="none",
        max_output_tokens=16,
    )
    assert follow_up.output_text


def test_a_streamed_call_is_assembled(client: openai.OpenAI) -> None:
    with client.responses.stream(
        model=SMOLLM2,
        input="What is the weather in Rome?",
        tools=[WEATHER],
        tool_choice={"type": "function", "name": "weather"},
        parallel_tool_calls=False,
    ) as stream:
        (call,) = calls(stream.get_final_response())
    assert json.loads(call.arguments)["city"] in ("Paris", "Rome")


def test_a_custom_tool_gets_an_input_of_its_grammar(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2,
        input="Note the date.",
        tools=[
            {
                "type": "custom",
                "name": "note",
                "description": "Takes a note.",
                "format": {"type": "grammar", "syntax": "regex", "definition": "[a-z]{3,8} [0-9]{2}"},
            }
        ],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    (call,) = [item for item in response.output if isinstance(item, ResponseCustomToolCall)]
    assert re.fullmatch("[a-z]{3,8} [0-9]{2}", call.input)


def test_tokens_are_counted_before_the_response(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2, instructions="Be brief.", input=QUESTION, tools=[WEATHER], max_output_tokens=1
    )
    count = client.responses.input_tokens.count(
        model=SMOLLM2, instructions="Be brief.", input=QUESTION, tools=[WEATHER]
    )
    assert response.usage is not None
    assert count.input_tokens == response.usage.input_tokens


async def test_many_async_streams_at_once_are_answered(pair: Pair) -> None:
    async with openai.AsyncOpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:

        async def stream(i: int) -> str:
            events = await client.responses.create(
                model=SMOLLM2, input=f"Say the number {i}.", temperature=0, max_output_tokens=10, stream=True
            )
            return "".join([event.delta async for event in events if event.type == "response.output_text.delta"])

        texts = await asyncio.gather(*(stream(i) for i in range(12)))
    assert all(texts)


def test_errors_become_the_sdks_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.responses.create(model="gpt-4", input="x")
    assert missing.value.code == "model_not_found"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as long:
            client.responses.create(model=SMOLLM2, input="word " * 3000, stream=stream)
        assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as out_of_range:
        client.responses.create(model=SMOLLM2, input="x", temperature=3)
    assert out_of_range.value.param == "temperature"
