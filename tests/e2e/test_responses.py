"""`/v1/responses` of the whole pair: strict types, both models, and tools that can't be enforced.

test_openai_responses.py has the features of the `openai` package.
"""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.responses import FunctionToolParam, Response

from tests.e2e.conftest import GEMMA3, SMOLLM2, Pair
from tests.openai_server.api.responses.output.streams import EXTENSIONS
from tests.shapes import exact

WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "get_weather",
    "description": "The current weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}


@pytest.fixture
def client(pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def exact_client(exact_pair: Pair) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{exact_pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_stream_is_the_whole_response_with_exact_types(exact_client: openai.OpenAI) -> None:
    request: dict[str, Any] = {
        "model": SMOLLM2,
        "instructions": "Answer in one sentence.",
        "input": "Name three colours.",
        "temperature": 0,
        "max_output_tokens": 24,
    }
    whole: Response = exact_client.responses.create(**request)
    exact(Response, whole, EXTENSIONS)
    assert whole.usage is not None
    assert whole.usage.output_tokens <= 24
    with exact_client.responses.stream(**request) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        streamed = stream.get_final_response() if whole.status == "completed" else None
    assert "".join(deltas) == whole.output_text
    assert streamed is None or streamed.output_text == whole.output_text


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
def test_a_call_and_its_result_make_a_round_trip(client: openai.OpenAI, model: str) -> None:
    question: Any = {"role": "user", "content": "What is the weather in Paris?"}
    response = client.responses.create(
        model=model, input=[question], tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, temperature=0
    )
    [call] = [item for item in response.output if item.type == "function_call"]
    assert (call.name, call.status) == ("get_weather", "completed")
    assert json.loads(call.arguments).keys() == {"city"}
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "17 degrees, sunny"}
    history: Any = [question, *response.output, result]
    answer = client.responses.create(
        model=model,
        input=history,
        tools=[WEATHER],
        tool_choice="none",
        max_output_tokens=30,
        temperature=0,
    )
    assert answer.output_text


def test_the_input_of_a_custom_tool_follows_its_expression(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model=SMOLLM2,
        input="Add 17 and 25.",
        tools=[
            {
                "type": "custom",
                "name": "calculate",
                "format": {"type": "grammar", "syntax": "regex", "definition": r"[0-9]{1,3} [+-] [0-9]{1,3}"},
            }
        ],
        tool_choice={"type": "custom", "name": "calculate"},
        temperature=0,
    )
    [call] = response.output
    assert call.type == "custom_tool_call"
    left, sign, right = call.input.split(" ")
    assert left.isdecimal()
    assert sign in "+-"
    assert right.isdecimal()


def test_a_schema_that_nothing_can_enforce_stops_no_other_tool(client: openai.OpenAI) -> None:
    broken: FunctionToolParam = {
        "type": "function",
        "name": "read",
        "parameters": {"type": "object", "properties": {"path": {"$ref": "#/nowhere"}}},
        "strict": None,
    }
    unsatisfiable: FunctionToolParam = {
        **broken,
        "name": "wait",
        "parameters": {
            "type": "object",
            "properties": {"n": {"type": "integer", "minimum": 5, "maximum": 3}},
            "required": ["n"],
        },
    }
    response = client.responses.create(
        model=SMOLLM2,
        input="What is the weather in Paris?",
        tools=[{**WEATHER, "strict": None}, broken, unsatisfiable],
        temperature=0,
        max_output_tokens=20,
    )
    assert [tool.strict for tool in response.tools if tool.type == "function"] == [True, False, False]
