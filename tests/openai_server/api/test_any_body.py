"""Any JSON body becomes calls to the backend or a 4xx that names a field, never another exception.

These tests cover the way from the body to the tensors, without a backend.
"""

import json
import time
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_server.api import schemas
from openai_server.api.chat.message import message_of
from openai_server.api.schemas import parse_chat, parse_completion
from openai_server.backends.dialects.anyserve import encode
from openai_server.backends.dialects.base import ServerInputs
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import APIError
from openai_server.core.turn import Prompt
from openai_server.parsing.choice_reader import ChoiceReader
from openai_server.prompting.plan import Planner
from openai_server.prompting.template import Templates
from tests.examples import examples

TEMPLATE = (
    '{% if tools %}{{ tools | tojson }}<tool_call>"arguments"</tool_call>{% endif %}'
    "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
    "{% if enable_thinking %}<think>{% endif %}"
)
PLANNER = Planner(
    Templates(clock=time.thread_time, now=partial(datetime, 2026, 3, 4), seconds=5, characters=100_000),
    new_id=lambda: "call_1",
)


def deep(value: object) -> object:
    """Returns the value nested deeper than the JSON encoder allows."""
    for _ in range(260):
        value = [value]
    return value


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.sampled_from(["auto", "none", "required", "function", "text", "json_object", "user", "f", "", "a|b", "("]),
    st.sampled_from(["9" * 5000, "w" * 5000, 10**30, 1e300, "[" * 1000 + "]" * 1000]),
)
words = st.sampled_from(
    sorted(
        {"type", "role", "content", "name", "function", "functions", "arguments", "id", "tool_call_id", "text"}
        | {"parameters", "strict", "json_schema", "schema", "include_usage", "mode", "tools", "allowed_tools", "$ref"}
    )
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(words | st.text(max_size=3) | st.sampled_from(["9" * 5000, "k" * 5000]), inner, max_size=4)
        | inner.map(deep)
    ),
    max_leaves=8,
)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}]
likely = {
    "n": st.integers(0, 4),
    "best_of": st.integers(0, 4),
    "stream": st.booleans(),
    "logprobs": st.booleans() | st.integers(0, 5),
    "tools": st.just(TOOLS) | values,
    "tool_choice": st.sampled_from(["auto", "none", "required", {"type": "function", "function": {"name": "f"}}]),
    "response_format": st.sampled_from([{"type": "text"}, {"type": "json_object"}]) | values,
    "enable_thinking": st.booleans(),
}


def bodies(
    fields: schemas.Fields, required: dict[str, Any], likely: dict[str, Any] = likely
) -> st.SearchStrategy[dict[str, Any]]:
    """Returns bodies with mostly known fields and plausible values."""
    optional_names = sorted({*fields.mapped, *fields.no_effect, *fields.neutral} - required.keys())
    field = st.sampled_from(optional_names).flatmap(lambda name: st.tuples(st.just(name), likely.get(name, values)))
    optional = st.lists(field, max_size=5).map(dict)
    return st.builds(lambda base, more: {**base, **more}, st.fixed_dictionaries(required), optional) | optional


def check(error: APIError | None) -> None:
    if error is not None:
        assert 400 <= error.status < 500
        assert error.message
        assert len(json.dumps(error.envelope())) < 8000


def outcome(parse: Any, body: object) -> APIError | None:
    try:
        turn = parse(json.dumps(body).encode()).turn()
        prompts: Sequence[Prompt] = turn.prompts
        inputs: ServerInputs = {}
        if turn.messages:
            plan = PLANNER.plan(turn, {"chat_template": TEMPLATE}, EVERYTHING)
            turn, prompts, inputs = plan.turn, [plan.prompt], plan.inputs
            if plan.format:
                message_of(ChoiceReader(plan.format).read("<think>a</think><tool_call>\n{", "stop"))
        for prompt in prompts:
            encode.infer_request(turn, prompt, model="m", request_id="id", server_inputs=inputs)
    except APIError as error:
        return error
    return None


@settings(max_examples=examples(500))
@given(bodies(schemas.COMPLETION_FIELDS, {"prompt": st.just("x") | values}))
def test_any_completion_is_encoded_or_rejected(body: dict[str, Any]) -> None:
    check(outcome(parse_completion, body))


messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "developer", "user", "assistant", "tool", "function", "x"])},
        optional={
            "content": values,
            "name": scalars,
            "tool_calls": values,
            "function_call": values,
            "tool_call_id": scalars,
            "reasoning_content": scalars,
        },
    ),
    max_size=3,
)


@settings(max_examples=examples(500))
@given(bodies(schemas.CHAT_FIELDS, {"messages": st.just([{"role": "user", "content": "x"}]) | messages | values}))
def test_any_chat_is_encoded_or_rejected(body: dict[str, Any]) -> None:
    check(outcome(parse_chat, body))


@pytest.mark.parametrize("parse", [parse_completion, parse_chat])
@given(st.binary(max_size=20) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_rejected(parse: Any, body: bytes) -> None:
    error: APIError | None = None
    try:
        parse(body)
    except APIError as raised:
        error = raised
    check(error)
