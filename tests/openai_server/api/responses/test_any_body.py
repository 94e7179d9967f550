"""Any JSON body becomes a request that can be planned, or a 4xx that names a field, never another exception."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openai_server.access.caps import Caps
from openai_server.api.responses.input import fields
from openai_server.api.responses.request import parse
from openai_server.backends.dialects.anyserve import encode
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import APIError
from tests.examples import examples
from tests.openai_server.api.responses.bodies import assistant, call, function, namespace, reasoning, result, user
from tests.openai_server.api.test_any_body import PLANNER, TEMPLATE, check, scalars, values

TYPES = st.sampled_from([*fields.ITEM_FIELDS, "item_reference", "x"])
part = st.fixed_dictionaries(
    {"type": st.sampled_from([*fields.PART_FIELDS, *fields.MEDIA_PARTS, "x"])},
    optional={"text": st.just("a") | scalars, "refusal": scalars, "image_url": scalars, "annotations": values},
)
content = st.just("a") | st.lists(part, max_size=3) | values
tool = st.fixed_dictionaries(
    {"type": st.sampled_from([*fields.TOOL_FIELDS, "x"])},
    optional={
        "name": st.sampled_from(["f", "g", "crm"]) | scalars,
        "parameters": st.just({"type": "object"}) | values,
        "format": values,
        "tools": st.lists(st.just(function()), max_size=2) | values,
        "strict": st.booleans() | scalars,
    },
)
item = st.fixed_dictionaries(
    {"type": TYPES},
    optional={
        "role": st.sampled_from(["user", "assistant", "system", "developer"]) | scalars,
        "content": content,
        "output": content,
        "summary": content,
        "call_id": st.sampled_from(["call_1", "call_2"]) | scalars,
        "name": st.sampled_from(["f", "g"]) | scalars,
        "namespace": st.just("crm") | scalars,
        "arguments": st.just("{}") | scalars,
        "input": scalars,
        "encrypted_content": scalars,
        "tools": st.lists(tool, max_size=2) | values,
        "reasoning": values,
        "text": values,
        "action": values,
        "results": values,
        "outputs": values,
    },
) | st.sampled_from([user(), assistant("a"), call(), result(), reasoning("r", "s"), call("call_2")])
LIKELY: dict[str, Any] = {
    "instructions": st.just("a") | scalars,
    "tools": st.lists(tool, max_size=3) | st.just([function(), namespace("crm", function("g"))]),
    "tool_choice": st.sampled_from(["auto", "none", "required"])
    | st.fixed_dictionaries(
        {"type": st.sampled_from([*fields.TOOL_CHOICE_FIELDS, "x"])},
        optional={"name": st.sampled_from(["f", "g"]), "tools": st.lists(tool, max_size=2), "mode": scalars},
    ),
    "text": st.fixed_dictionaries({}, optional={"format": values, "verbosity": scalars}) | values,
    "reasoning": st.fixed_dictionaries({}, optional={"effort": st.just("low") | scalars, "summary": scalars}) | values,
    "include": st.lists(st.sampled_from(fields.INCLUDABLE) | scalars, max_size=2),
    "metadata": st.dictionaries(st.text(max_size=3), scalars, max_size=2) | values,
}
TABLE = fields.RESPONSES_FIELDS
NAMES = st.sampled_from(sorted(LIKELY)) | st.sampled_from(
    sorted({*TABLE.mapped, *TABLE.no_effect, *TABLE.neutral} - {"input"})
)
BODIES = st.builds(
    lambda input, more: {"input": input, **more},
    st.just("x") | st.lists(item, max_size=4) | st.lists(item | values, max_size=3) | values,
    st.lists(
        NAMES.flatmap(lambda name: st.tuples(st.just(name), LIKELY.get(name, st.none() | values))), max_size=3
    ).map(dict),
)


def outcome(body: bytes) -> APIError | None:
    try:
        request = parse(body, Caps())
        turn = request.with_opened(["opened" for _ in request.sealed_items]).turn
        plan = PLANNER.plan(turn, {"chat_template": TEMPLATE}, EVERYTHING)
        encode.infer_request(plan.turn, plan.prompt, model="m", request_id="id", server_inputs=plan.inputs)
        json.dumps([dict(tool) for tool in request.settings.tools])
        for i in range(len(turn.tools)):
            assert turn.tool_field(i).startswith(("tools[", "input["))
        assert len(turn.messages) == len(turn.message_fields)
    except APIError as error:
        return error
    return None


@settings(max_examples=examples(1000))
@given(BODIES)
def test_any_body_is_planned_or_rejected(body: dict[str, Any]) -> None:
    check(outcome(json.dumps(body).encode()))


@given(st.binary(max_size=20) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_parsed_or_rejected(body: bytes) -> None:
    check(outcome(body))


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"input":1e999}', b'{"input":["\\ud800"]}'])
def test_what_is_no_object_is_rejected(body: bytes) -> None:
    error = outcome(body)
    assert error is not None
    check(error)
