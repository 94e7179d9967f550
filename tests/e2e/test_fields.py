"""Fields of the API through the newest SDK against real models: a stream has the content of the whole response, and
constraints hold."""

import json
import math
from collections.abc import Iterator
from typing import Any, Literal

import pytest
from openai import BadRequestError, OpenAI
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk, ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel

from tests.e2e.conftest import SMOLLM2, Pair
from tests.shapes import exact

MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
TIME = {
    "name": "get_time",
    "parameters": {"type": "object", "properties": {"zone": {"type": "string", "maxLength": 9}}, "required": ["zone"]},
}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
NAMED = {"type": "function", "function": {"name": "get_time"}}


@pytest.fixture(scope="module")
def client(exact_pair: Pair) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{exact_pair.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client: OpenAI, **body: Any) -> ChatCompletion:
    body = {"model": SMOLLM2, "messages": MESSAGES, "temperature": 0, "max_tokens": 60, **body}
    completion = client.chat.completions.create(**body)
    assert isinstance(completion, ChatCompletion)
    return exact(ChatCompletion, completion)


def merged(client: OpenAI, **body: Any) -> dict[int, dict[str, Any]]:
    """Merges the deltas of a stream into messages with their finish_reason, by choice."""
    body = {"model": SMOLLM2, "messages": MESSAGES, "temperature": 0, "max_tokens": 60, **body}
    messages: dict[int, dict[str, Any]] = {}
    for chunk in client.chat.completions.create(**body, stream=True):
        exact(ChatCompletionChunk, chunk)
        for choice in chunk.choices:
            message = messages.setdefault(choice.index, {"content": "", "calls": [], "finish_reason": None})
            message["content"] += choice.delta.content or ""
            message["finish_reason"] = choice.finish_reason or message["finish_reason"]
            for call in choice.delta.tool_calls or ():
                assert call.function is not None
                if call.index == len(message["calls"]):
                    assert call.id
                    message["calls"].append({"name": call.function.name, "arguments": ""})
                else:
                    assert (call.id, call.function.name) == (None, None), "id and name are sent once"
                message["calls"][call.index]["arguments"] += call.function.arguments or ""
    return messages


def as_merged(completion: ChatCompletion) -> dict[int, dict[str, Any]]:
    return {
        choice.index: {
            "content": choice.message.content or "",
            "calls": [
                {"name": call.function.name, "arguments": call.function.arguments}
                for call in choice.message.tool_calls or ()
                if isinstance(call, ChatCompletionMessageFunctionToolCall)
            ],
            "finish_reason": choice.finish_reason,
        }
        for choice in completion.choices
    }


# ---- A stream has the content of the whole response

SCHEMA = {"type": "json_schema", "json_schema": {"name": "weather", "schema": WEATHER["parameters"], "strict": True}}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"stop": ["the"]},
        {"logprobs": True, "top_logprobs": 2},
        {"logit_bias": {"260": -100}},
        {"n": 3, "temperature": 1.2, "seed": 5},
        {"response_format": {"type": "json_object"}},
        {"response_format": SCHEMA},
        {"extra_body": {"regex": "[a-z ]{5,30}"}},
        {"extra_body": {"grammar": 'root ::= "sun" "ny"* | "rain"'}},
        {"tools": TOOLS},
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": 200},
        {"tools": TOOLS, "tool_choice": "required", "max_tokens": 20},
        {"tools": TOOLS, "tool_choice": NAMED},
        {"tools": TOOLS, "tool_choice": NAMED, "n": 3, "temperature": 1.5, "seed": 3},
        {"tools": [{"type": "function", "function": {**TIME, "strict": True}}]},
    ],
    ids=str,
)
def test_the_deltas_of_a_stream_are_the_whole_response(client: OpenAI, body: dict[str, Any]) -> None:
    assert merged(client, **body) == as_merged(chat(client, **body))


UNENFORCEABLE = {"type": "json_schema", "json_schema": {"name": "a", "schema": {"not": {}}, "strict": True}}


# ---- Tools


@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_one_of_the_tools_with_valid_arguments(client: OpenAI, seed: int) -> None:
    completion = chat(
        client,
        tools=TOOLS,
        tool_choice="required",
        parallel_tool_calls=False,
        temperature=1.5,
        seed=seed,
        max_tokens=200,
    )
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        assert set(arguments) == {"city", "unit"}
        assert arguments["unit"] in ("C", "F")
    else:
        assert call.function.name == "get_time"
        assert isinstance(arguments["zone"], str)


def test_a_named_function_is_called(client: OpenAI) -> None:
    (choice,) = chat(client, tools=TOOLS, tool_choice=NAMED).choices
    (call,) = choice.message.tool_calls or []
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "get_time"
    assert choice.finish_reason == "stop"


def test_an_older_function_is_called(client: OpenAI) -> None:
    (choice,) = chat(client, functions=[TIME], function_call={"name": "get_time"}).choices
    assert choice.message.function_call is not None
    assert choice.message.function_call.name == "get_time"
    json.loads(choice.message.function_call.arguments)
    assert choice.message.tool_calls is None


def test_a_chat_with_a_tools_result_is_answered(client: OpenAI) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'}}
    history = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny, 21 degrees"},
    ]
    with_result = chat(client, messages=history, tools=TOOLS)
    assert with_result.usage is not None
    assert chat(client, tools=TOOLS).usage is not None
    assert with_result.choices[0].message.content


def test_the_sdk_parses_a_response_format(client: OpenAI) -> None:
    class Weather(BaseModel):
        sky: Literal["sunny", "cloudy"]
        degrees: int

    completion = client.chat.completions.parse(
        model=SMOLLM2, messages=MESSAGES, response_format=Weather, temperature=0, max_tokens=60
    )
    assert isinstance(completion.choices[0].message.parsed, Weather)


def test_messages_from_the_sdk_can_be_sent_back(client: OpenAI) -> None:
    """The messages of a call, of a stream and of a parsed response, with all their nulls."""

    class Weather(BaseModel):
        sky: Literal["sunny", "cloudy"]

    body: dict[str, Any] = {"model": SMOLLM2, "messages": MESSAGES, "temperature": 0, "max_tokens": 60}
    named: dict[str, Any] = {"tools": TOOLS[1:], "tool_choice": NAMED}
    with client.chat.completions.stream(**body, **named) as stream:
        streamed = stream.get_final_completion().choices[0].message
    parsed = client.chat.completions.parse(**body, response_format=Weather).choices[0].message
    for message in (chat(client, **named).choices[0].message, streamed, parsed):
        dumped = message.model_dump(warnings=False)  # the package warns about its own parsed fields
        results = [{"role": "tool", "tool_call_id": call["id"], "content": "1"} for call in dumped["tool_calls"] or ()]
        assert chat(client, messages=[*MESSAGES, dumped, *results], max_tokens=1).choices


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("response_format", {"response_format": UNENFORCEABLE}),
        ("regex", {"extra_body": {"regex": "("}}),
        ("grammar", {"extra_body": {"grammar": "?"}}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("logit_bias", {"logit_bias": {"1000000": 1}}),
        ("max_tokens", {"max_tokens": -1}),
    ],
)
def test_unsupported_values_are_refused_by_name(client: OpenAI, param: str, body: dict[str, Any]) -> None:
    with pytest.raises(BadRequestError) as refused:
        chat(client, **body)
    assert refused.value.param == param


# ---- Completions


def complete(client: OpenAI, **body: Any) -> Completion:
    completion = client.completions.create(**{"model": SMOLLM2, "prompt": "Paris is", "temperature": 0, **body})
    assert isinstance(completion, Completion)
    return completion


def test_continuations_can_be_scored_as_in_evaluation_harnesses(client: OpenAI) -> None:
    """A harness sends token ids with echo and no new tokens, and compares the log probabilities of the
    continuations."""
    context = [504, 3575, 282, 4649, 314]
    completion = complete(client, prompt=[[*context, 7042], [*context, 30]], echo=True, max_tokens=0, logprobs=1)
    scores: list[float] = []
    for choice in completion.choices:
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs is not None
        assert len(choice.logprobs.token_logprobs) == 6
        assert choice.logprobs.token_logprobs[0] is None
        scores.append(choice.logprobs.token_logprobs[-1])
    assert scores[0] > scores[1], "Paris is likelier than a full stop"
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 0


def test_the_parts_of_a_stream_are_the_whole_completion(client: OpenAI) -> None:
    body: Any = {"prompt": ["Paris is", "Rome 🚀 is"], "n": 2, "seed": 1, "max_tokens": 8, "logprobs": 2, "echo": True}
    whole = complete(client, **body)
    text: dict[int, str] = {}
    parts: dict[int, dict[str, list[Any]]] = {}
    for chunk in client.completions.create(model=SMOLLM2, temperature=0, **body, stream=True):
        for choice in chunk.choices:
            text[choice.index] = text.get(choice.index, "") + choice.text
            for name, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                parts.setdefault(choice.index, {}).setdefault(name, []).extend(values)
    for choice in whole.choices:
        assert text[choice.index] == choice.text
        assert choice.logprobs is not None
        assert parts[choice.index] == choice.logprobs.model_dump()
        assert choice.logprobs.text_offset is not None
        for offset, token in zip(choice.logprobs.text_offset, choice.logprobs.tokens or (), strict=True):
            assert token.startswith("bytes:") or choice.text[offset:].startswith(token)


def test_best_of_returns_the_likeliest_choice(client: OpenAI) -> None:
    body = {"n": 1, "temperature": 1.3, "seed": 4, "max_tokens": 6}
    every = complete(client, **{**body, "n": 6}, logprobs=0)
    best = complete(client, **body, best_of=6)

    def likelihood(choice: Any) -> float:
        return float(sum(choice.logprobs.token_logprobs) / len(choice.logprobs.token_logprobs))

    assert best.choices[0].text == max(every.choices, key=likelihood).text
    assert best.choices[0].logprobs is None
    assert best.usage is not None
    assert best.usage.completion_tokens == 36


def test_top_probabilities_add_up_to_at_most_one(client: OpenAI) -> None:
    completion = chat(client, logprobs=True, top_logprobs=20, max_tokens=5)
    logprobs = completion.choices[0].logprobs
    assert logprobs is not None
    for token in logprobs.content or ():
        assert len(token.top_logprobs) == 20
        assert 0.2 < sum(math.exp(top.logprob) for top in token.top_logprobs) <= 1.001
        assert token.top_logprobs[0].token == token.token, "greedy"
