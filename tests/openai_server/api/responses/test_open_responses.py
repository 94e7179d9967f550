"""Responses and events fit the Open Responses specification, which llm-comply contains."""

import json
from functools import cache
from importlib.resources import files
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from llm_comply.schema import SSE_EVENT_TO_SCHEMA

from openai_server.core.errors import InternalError
from tests.openai_server.api.responses.output.streams import events, request, streamed, writer
from tests.openai_server.api.responses.output.test_writer import CALL, FORMAT, TOOLS, rows_of

OF_OPENAI = ("response.reasoning_text.", "response.custom_tool_call_input.")
"""Events that OpenAI has. Open Responses has another name for the first, and no custom tools."""


@cache
def validator(name: str) -> Draft202012Validator:
    document = json.loads((files("llm_comply") / "specs" / "openresponses.json").read_text())
    return Draft202012Validator({**document["components"]["schemas"][name], "components": document["components"]})


def check(stream: list[Any]) -> None:
    for event in stream:
        if not event["type"].startswith(OF_OPENAI):
            validator(SSE_EVENT_TO_SCHEMA[event["type"]]).validate(event)
    validator("ResponseResource").validate(stream[-1]["response"])


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    "text", ["", "a", f"<think>why</think>First.{CALL}", f"{CALL}b", '<tool_call>{"name": "f", "arg']
)
def test_answers_fit(text: str, reason: str) -> None:
    check(streamed(rows_of(text, reason), request(tools=TOOLS), FORMAT))


def test_failures_fit() -> None:
    stream = writer(request())
    check(events(stream.begin(1, None) + stream.text(0, "a") + stream.failure(InternalError())))
