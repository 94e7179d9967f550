"""Whole answers of `/v1/responses`, and that a stream ends with the same response."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from openai.types.responses import Response

from openai_server.api.responses.output.whole import response
from openai_server.api.responses.settings import ResponsesRequest, Settings
from openai_server.core.answer import Answer, Choice
from openai_server.core.logprobs import TokenLogprob
from openai_server.core.usage import Usage
from openai_server.http.json_response import encode
from openai_server.parsing.choice_reader import AnswerFormat
from tests.openai_server.api.responses.output.streams import EXTENSIONS, IDENTITY, NOW, USAGE, request, streamed
from tests.openai_server.api.responses.output.test_writer import CALL, CUSTOM_CALL, FORMAT, TOOLS, rows_of
from tests.openai_server.parsing.answers import cuts
from tests.shapes import exact

REQUEST = request(tools=TOOLS)


def whole(
    text: str,
    reason: str | None = "stop",
    format: AnswerFormat | None = FORMAT,
    *,
    request: ResponsesRequest = REQUEST,
    logprobs: Sequence[TokenLogprob] = (),
    usage: Usage | None = USAGE,
) -> Any:
    answers = [Answer([Choice(0, text, reason, logprobs)], usage)]
    answer = response(IDENTITY, answers, request, format, None, NOW)
    assert (answer.n_choices, answer.usage) == (1, usage)
    payload = json.loads(encode(answer.content))
    exact(Response, payload, EXTENSIONS)
    return payload


def test_the_response_repeats_the_values_that_were_in_effect() -> None:
    settings = Settings(
        instructions="Be brief.",
        tools=[{"type": "function", "name": "f", "parameters": None, "strict": False, "description": None}],
        tool_choice={"type": "function", "name": "f"},
        parallel_tool_calls=False,
        temperature=0.5,
        top_p=0.25,
        presence_penalty=0.125,
        frequency_penalty=-0.5,
        top_logprobs=3,
        max_output_tokens=7,
        max_tool_calls=2,
        truncation="auto",
        text={"format": {"type": "json_object"}, "verbosity": "low"},
        reasoning={"effort": "low", "summary": "auto"},
        metadata={"a": "b"},
        service_tier="default",
        safety_identifier="s",
        prompt_cache_key="k",
        user="u",
        store=True,
        background=True,
        previous_response_id="resp_1",
        conversation="conv_1",
    )
    payload = whole("x", request=request(settings))
    expected = {**json.loads(encode(settings)), "conversation": {"id": "conv_1"}}
    assert {name: payload[name] for name in settings.__struct_fields__} == expected
    assert payload["object"] == "response"


def test_every_key_is_present() -> None:
    assert whole("x", usage=None) == {
        "id": "resp_0123",
        "object": "response",
        "created_at": 1700000000,
        "completed_at": 1700000002,
        "status": "completed",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "max_tool_calls": None,
        "model": IDENTITY.model,
        "output": whole("x")["output"],
        "parallel_tool_calls": True,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": None, "summary": None},
        "safety_identifier": None,
        "service_tier": "default",
        "store": False,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
    }


@pytest.mark.parametrize(
    ("counts", "cached", "reasoning"), [(Usage(3, 4, 1, 2), 1, 2), (Usage(3, 4, None, None), 0, 0)]
)
def test_token_counts(counts: Usage, cached: int, reasoning: int) -> None:
    assert whole("x", usage=counts)["usage"] == {
        "input_tokens": 3,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": 4,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": 7,
    }


@pytest.mark.parametrize(("reason", "expected"), [("stop", ["tool_calls"]), ("length", ["length"]), (None, [])])
def test_finish_reasons_for_metrics(reason: str | None, expected: list[str]) -> None:
    answer = response(IDENTITY, [Answer([Choice(0, CALL, reason)], None)], REQUEST, FORMAT, None, NOW)
    assert answer.finish_reasons == expected


# ---- Streams

ANSWERS = [
    "",
    "Hé 🙂",
    "<think>why</think>because",
    f"Calls: {CALL}{CUSTOM_CALL}",
    f"<think>r</think>{CUSTOM_CALL} after",
    '<tool_call>\n{"name": "f"}\n</tool_call>',
    '<tool_call>\n{"name": "t__c", "arguments": {"input": "x',
]


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize("format", [None, FORMAT], ids=["plain", "parsed"])
def test_a_stream_ends_with_the_same_response(text: str, reason: str, format: AnswerFormat | None) -> None:
    expected = whole(text, reason, format)
    for pieces in cuts(text):
        rows = [(0, piece.encode(), None, ()) for piece in pieces]
        stream = streamed([*rows, (0, b"", reason, ())], REQUEST, format)
        assert stream[-1]["response"] == expected


@pytest.mark.parametrize("text", ANSWERS)
def test_every_beginning_of_an_answer_is_a_valid_incomplete_response(text: str) -> None:
    for end in range(len(text) + 1):
        stream = streamed(rows_of(text[:end], "length"), REQUEST, FORMAT)
        assert stream[-1]["type"] == "response.incomplete"
        assert stream[-1]["response"] == whole(text[:end], "length")


# ---- Log probabilities


def tokens(*texts: str) -> list[TokenLogprob]:
    return [TokenLogprob(text.encode(), -0.5, []) for text in texts]


@pytest.mark.parametrize(
    ("text", "generated", "expected"),
    [
        ("ab", ["a", "b"], ["a", "b"]),
        ("<think>r</think>ab", ["<think>", "r", "</think>", "a", "b"], ["</think>", "a", "b"]),
        (f"a{CALL}", ["a", CALL], ["a"]),
        ("ab", ["a", "b", "</s>"], ["a", "b", "</s>"]),  # a control token at the end
        ("ab", ["a", "<|x|>", "b"], ["a", "<|x|>", "b"]),  # one in between
        ("ab", ["a", "b."], ["a", "b."]),  # a stop string was found inside the last token
    ],
)
def test_log_probabilities_belong_to_the_message(text: str, generated: list[str], expected: list[str]) -> None:
    message = next(item for item in whole(text, logprobs=tokens(*generated))["output"] if item["type"] == "message")
    assert [token["token"] for token in message["content"][0]["logprobs"]] == expected
    assert message["content"][0]["text"] == text.removeprefix("<think>r</think>").removesuffix(CALL)


def test_streamed_log_probabilities_are_the_same() -> None:
    generated = tokens("<think>", "r", "</think>", "a", "b")
    rows = [(0, token.token, None, [token]) for token in generated]
    stream = streamed([*rows, (0, b"", "stop", ())], REQUEST, FORMAT)
    assert stream[-1]["response"] == whole("<think>r</think>ab", logprobs=generated)
