"""Any JSON body becomes a call to the backend or an error in this API's form, never another exception."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_server.access.caps import Caps
from openai_server.api.answers import AnswerIdentity
from openai_server.api.messages import fields
from openai_server.api.messages.errors import ANTHROPIC
from openai_server.api.messages.request import parse, parse_count
from openai_server.api.messages.schema import MessagesTurn
from openai_server.api.messages.whole import whole
from openai_server.backends.dialects.anyserve import encode
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import APIError
from openai_server.http.json_response import encode as encode_json
from tests.examples import examples
from tests.openai_server.api.test_any_body import PLANNER, TEMPLATE, bodies, scalars, values

HI = [{"role": "user", "content": "x"}]
TYPES = st.sampled_from([*fields.BLOCKS.tables, *fields.SOURCES.tables, *fields.THINKING.tables, "unheard_of"])
TEXT = st.just({"type": "text", "text": "x"})
SOURCE = st.sampled_from([{"type": "text", "data": "x"}, {"type": "content", "content": [{"type": "image"}]}]) | values
BLOCK = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        **dict.fromkeys(("text", "thinking", "id", "name", "tool_use_id", "title", "is_error"), scalars),
        **dict.fromkeys(("input", "content", "data"), values),
        "source": SOURCE,
    },
)
CONTENT = st.lists(TEXT | BLOCK, max_size=4) | scalars
MESSAGES = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "x"]), "content": CONTENT},
        optional={"clear_at": scalars},
    ),
    max_size=4,
)
TOOLS: list[dict[str, Any]] = [{"name": "f", "input_schema": {"type": "object"}}, {"type": "bash_1", "name": "bash"}]
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "messages": st.just(HI) | MESSAGES,
    "max_tokens": st.integers(0, 9),
    "system": CONTENT,
    "tools": st.just(TOOLS) | values,
    "tool_choice": st.sampled_from([{"type": kind, "name": "f"} for kind in fields.TOOL_CHOICES.tables]),
    "thinking": st.sampled_from([{"type": kind, "budget_tokens": 1024} for kind in fields.THINKING.tables]),
    "output_config": st.sampled_from([{"effort": "low"}, {"format": {"type": "json_schema", "schema": {}}}]) | values,
    "stop_sequences": st.lists(st.text(min_size=1, max_size=2), max_size=2),
}


def outcome(body: object) -> APIError | None:
    try:
        request = parse(json.dumps(body).encode(), Caps(schema=10_000))
        plan = PLANNER.plan(request.turn, {"chat_template": TEMPLATE}, EVERYTHING)
        encode.infer_request(plan.turn, plan.prompt, model="m", request_id="id", server_inputs=plan.inputs)
    except APIError as error:
        return error
    check_answer(request, plan.format)
    return None


def check_answer(request: MessagesTurn, format: Any) -> None:
    answer = Answer([Choice(0, '<think>a</think>b<tool_call>\n{"name": "f", "arguments": {', "length")], None)
    encode_json(whole(AnswerIdentity("msg_1", 0, "m"), [answer], request, format).content)


def check(error: APIError | None) -> None:
    if error is not None:
        answer = ANTHROPIC.error(error, "req_1")
        assert 400 <= answer.status < 500
        assert len(json.dumps(answer.content)) < 8000


@settings(max_examples=examples(500))
@given(bodies(fields.MESSAGES_FIELDS, {"messages": LIKELY["messages"], "max_tokens": LIKELY["max_tokens"]}, LIKELY))
def test_any_body_is_encoded_or_rejected(body: dict[str, Any]) -> None:
    check(outcome(body))


@pytest.mark.parametrize("parser", [parse, parse_count])
@given(st.binary(max_size=20) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_rejected(parser: Any, body: bytes) -> None:
    error: APIError | None = None
    try:
        parser(body, Caps())
    except APIError as raised:
        error = raised
    check(error)
