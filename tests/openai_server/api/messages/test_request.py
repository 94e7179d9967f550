import json
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.bodies.parsers import name_of, named
from openai_server.api.messages.request import parse, parse_count
from openai_server.api.messages.schema import MessagesTurn
from openai_server.core.errors import AboveLimit, InvalidRequest
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import NO_GUIDE, Guide, Sampling, TemplateOptions, Turn

BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
F: dict[str, Any] = {"name": "f", "description": "d", "input_schema": {"type": "object"}}
G: dict[str, Any] = {"name": "g", "input_schema": {"type": "object"}, "strict": True}
TOOLS = [
    Tool(FunctionDefinition("f", "d", {"type": "object"}, strict=False)),
    Tool(FunctionDefinition("g", None, {"type": "object"}, strict=True)),
]
SEARCH = {"type": "web_search_20260318", "name": "web_search"}
SCHEMA = {"type": "object"}
FORMAT = {"type": "json_schema", "schema": SCHEMA}


def request(caps: Caps | None = None, **fields: Any) -> MessagesTurn:
    return parse(json.dumps({**BODY, **fields}).encode(), caps or Caps())


def turn(**fields: Any) -> Turn:
    return request(**fields).turn


def count(**fields: Any) -> Turn:
    return parse_count(json.dumps({**BODY, **fields}).encode(), Caps())


def refusal(**fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        turn(**fields)
    return caught.value


def test_the_fields_of_sampling_become_those_of_the_turn() -> None:
    parsed = turn(temperature=0.5, top_p=0.25, top_k=3, seed=4, min_p=0.125, stop_sequences=["a"], repeat_penalty=1.5)
    assert parsed.sampling == Sampling(
        temperature=0.5, top_p=0.25, top_k=3, seed=4, min_p=0.125, stop=["a"], repetition_penalty=1.5
    )
    assert (parsed.token_limit, parsed.n_returned, parsed.reports_stop) == (9, 1, True)
    assert parsed.name("repetition_penalty") == "repeat_penalty"
    assert turn(stop_sequences=[]).sampling == Sampling()


def test_max_tokens_is_required_and_may_be_0() -> None:
    assert turn(max_tokens=0).token_limit == 0
    for value in (None, -1, 1.5, "1"):
        assert refusal(max_tokens=value).param == "max_tokens"


@pytest.mark.parametrize(
    ("thinking", "enabled", "is_hint", "limit", "omits"),
    [
        (None, False, True, None, False),
        ({"type": "disabled"}, False, False, None, False),
        ({"type": "adaptive"}, True, True, None, False),
        ({"type": "adaptive", "display": "omitted"}, True, True, None, True),
        ({"type": "adaptive", "display": "summarized"}, True, True, None, False),
        ({"type": "between_tools"}, True, True, None, False),
        ({"type": "enabled", "budget_tokens": 1024}, True, False, 1024, False),
        ({"type": "enabled", "budget_tokens": 9999, "display": "omitted"}, True, False, 9999, True),
    ],
)
def test_thinking(thinking: Any, enabled: bool, is_hint: bool, limit: int | None, omits: bool) -> None:
    parsed = request(thinking=thinking, output_config={"effort": "high"})
    assert parsed.turn.template == TemplateOptions(enable_thinking=enabled, reasoning_effort="high")
    assert (parsed.turn.thinking_is_hint, parsed.turn.effort_is_hint) == (is_hint, True)
    assert (parsed.turn.reasoning_limit, parsed.omits_thinking) == (limit, omits)


@pytest.mark.parametrize(
    ("choice", "use"),
    [
        (None, ToolUse(TOOLS)),
        ({"type": "auto"}, ToolUse(TOOLS)),
        ({"type": "auto", "disable_parallel_tool_use": True}, ToolUse(TOOLS, parallel=False)),
        ({"type": "any"}, ToolUse(TOOLS, must_call=True)),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolUse(TOOLS, must_call=True, parallel=False)),
        ({"type": "tool", "name": "g"}, ToolUse(TOOLS, must_call=True, function_name="g", parallel=False)),
        ({"type": "none"}, None),
    ],
)
def test_tools_and_their_choice(choice: Any, use: ToolUse | None) -> None:
    for tools in ([F, G], [F, SEARCH, {**G, "type": "custom"}]):
        parsed = turn(tools=tools, tool_choice=choice)
        assert parsed.tools == TOOLS
        assert parsed.tool_use == use


def test_errors_name_the_tools_of_the_request() -> None:
    parsed = turn(tools=[SEARCH, F, SEARCH, G])
    assert [parsed.tool_field(i) for i in range(2)] == ["tools[1].input_schema", "tools[3].input_schema"]
    with pytest.raises(AboveLimit) as caught:
        request(Caps(schema=30), tools=[SEARCH, {**F, "input_schema": {"description": "x" * 30}}])
    assert caught.value.param == "tools[1].input_schema"


def test_without_tools_only_a_choice_that_needs_none_is_allowed() -> None:
    for choice in ({"type": "auto"}, {"type": "none"}):
        assert turn(tool_choice=choice).tool_use is None
        assert turn(tools=[SEARCH], tool_choice=choice).tool_use is None
    for tools in ([], [SEARCH]):
        assert refusal(tools=tools, tool_choice={"type": "any"}).param == "tool_choice"


@pytest.mark.parametrize(
    ("fields", "guide"),
    [
        ({}, NO_GUIDE),
        ({"output_config": {"effort": "low"}}, NO_GUIDE),
        (
            {"output_config": {"format": FORMAT}},
            Guide(field="output_config.format", json_schema=SCHEMA, strict=True),
        ),
        ({"output_format": FORMAT}, Guide(field="output_format", json_schema=SCHEMA, strict=True)),
        (
            {"output_format": FORMAT, "output_config": {"format": FORMAT}},
            Guide(field="output_config.format", json_schema=SCHEMA, strict=True),
        ),
        ({"regex": "a|b"}, Guide(field="regex", regex="a|b")),
    ],
)
def test_formats_are_guides(fields: dict[str, Any], guide: Guide) -> None:
    assert turn(**fields).guide == guide


def test_a_request_has_one_format() -> None:
    other = {"type": "json_schema", "schema": {"type": "array"}}
    assert refusal(output_format=other, output_config={"format": FORMAT}).param == "output_format"
    assert refusal(output_config={"format": FORMAT}, regex="a").param == "regex"


@pytest.mark.parametrize(("limit", "expected"), [(0, 9), (8, 8), (9, 9), (10, 9)])
def test_the_required_max_tokens_is_lowered_to_the_servers_limit(limit: int, expected: int) -> None:
    assert request(Caps(output_tokens=limit)).turn.token_limit == expected


def test_the_limits_of_the_server_apply() -> None:
    with pytest.raises(AboveLimit) as caught:
        request(Caps(schema=8), output_config={"format": FORMAT})
    assert caught.value.param == "output_config.format"


def test_a_count_has_the_prompt_of_the_request() -> None:
    fields: dict[str, Any] = {
        "system": "s",
        "tools": [F, SEARCH],
        "tool_choice": {"type": "any"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "output_config": {"effort": "max"},
        "chat_template_kwargs": {"a": 1},
    }
    counted, generated = count(**fields), turn(**fields)
    for name in ("messages", "tools", "tool_use", "template", "thinking_is_hint", "effort_is_hint"):
        assert getattr(counted, name) == getattr(generated, name), name
    assert counted.token_limit is None


def test_a_count_ignores_fields_that_the_prompt_does_not_depend_on() -> None:
    count(max_tokens=None, temperature="warm", stop_sequences=3, stream=[], regex=1)


@pytest.mark.parametrize("parser", [parse, parse_count])
def test_a_parser_can_run_in_a_helper_process(parser: Any) -> None:
    assert named(name_of(parser)) is parser
