"""A body of `/v1/responses` becomes a turn and the settings that its response repeats."""

import json
from typing import Any

import pytest
from msgspec.structs import replace

from openai_server.access.caps import Caps
from openai_server.api.bodies import parsers
from openai_server.api.responses.request import parse
from openai_server.api.responses.settings import StoreUse
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.core.turn import Guide
from openai_server.store.records import Base
from tests.openai_server.api.responses.bodies import function, parsed, rejection, user

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
NAMED = {"type": "json_schema", "name": "answer", "schema": SCHEMA}


def test_the_parser_has_a_name() -> None:
    assert parsers.named(parsers.name_of(parse)) is parse


def test_defaults() -> None:
    request = parsed()
    turn, settings = request.turn, request.settings
    assert (turn.model, turn.token_limit, turn.top_logprobs, turn.tool_use, bool(turn.guide)) == (
        None,
        None,
        None,
        None,
        False,
    )
    assert not request.stream
    assert settings.text == {"format": {"type": "text"}}
    assert settings.reasoning == {"effort": None, "summary": None}
    assert (settings.tool_choice, settings.tools, settings.metadata) == ("auto", [], {})
    assert (settings.temperature, settings.top_p, settings.truncation, settings.service_tier) == (
        1,
        1,
        "disabled",
        "default",
    )


def test_the_response_repeats_the_request() -> None:
    values: dict[str, Any] = {
        "instructions": "Be brief.",
        "temperature": 0.5,
        "top_p": 0.25,
        "presence_penalty": 1,
        "frequency_penalty": -1,
        "top_logprobs": 3,
        "max_output_tokens": 20,
        "max_tool_calls": 4,
        "parallel_tool_calls": False,
        "metadata": {"a": "b"},
        "safety_identifier": "s",
        "prompt_cache_key": "k",
        "user": "u",
    }
    settings = parsed(**values).settings
    assert {name: getattr(settings, name) for name in values} == values


@pytest.mark.parametrize(("value", "drops_oldest"), [("auto", True), ("disabled", False), (None, False)])
def test_truncation_may_drop_messages(value: str | None, drops_oldest: bool) -> None:
    request = parsed(truncation=value)
    assert (request.settings.truncation, request.turn.drops_oldest) == (value or "disabled", drops_oldest)


def test_values_without_effect_are_reported_as_they_are() -> None:
    assert parsed(store=True, background=False).settings.truncation == "disabled"
    assert parsed(text={"verbosity": "low"}).settings.text == {"format": {"type": "text"}, "verbosity": "low"}


@pytest.mark.parametrize(
    ("requested", "tier"),
    [("auto", "default"), ("scale", "default"), ("flex", "flex"), ("priority", "priority"), ("fast", "priority")],
)
def test_a_tier_is_reported(requested: str, tier: str) -> None:
    request = parsed(service_tier=requested)
    assert (request.service_tier, request.settings.service_tier) == (requested, tier)
    request.report_tier("default")
    assert request.settings.service_tier == "default"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("client_metadata", {"x": 1}),
        ("prompt_cache_options", {"mode": "implicit"}),
        ("prompt_cache_retention", "24h"),
        ("store", True),
        ("store", False),
        ("stream_options", {"include_obfuscation": False}),
        ("stream_options", {"include_usage": True}),
        ("reasoning", {"context": "all_turns", "mode": "standard"}),
        ("context_management", []),
        ("n", 1),
        ("background", False),
        ("truncation", "disabled"),
        ("user", "u"),
    ],
)
def test_fields_without_effect_are_accepted(field: str, value: object) -> None:
    assert replace(parsed(**{field: value}).turn, extras={}) == parsed().turn


def test_templates_are_not_stored() -> None:
    error = rejection("prompt", prompt={"id": "x_1"})
    assert isinstance(error, UnsupportedParameter)
    assert "stores no templates" in error.message
    assert parsed(prompt=None).turn == parsed().turn


@pytest.mark.parametrize(
    ("body", "use"),
    [
        ({}, StoreUse()),
        ({"store": True}, StoreUse(store=True)),
        ({"store": False, "background": False}, StoreUse(store=False)),
        ({"background": True}, StoreUse(background=True)),
        ({"previous_response_id": "resp_1"}, StoreUse(base=Base("resp_1"))),
        ({"conversation": "conv_1"}, StoreUse(base=Base(None, "conv_1"))),
        ({"conversation": {"id": "conv_1"}}, StoreUse(base=Base(None, "conv_1"))),
        ({"store": None, "background": None, "previous_response_id": None, "conversation": None}, StoreUse()),
    ],
)
def test_the_use_of_the_store(body: dict[str, object], use: StoreUse) -> None:
    request = parsed(**body)
    assert request.use == use
    assert replace(request.turn, extras={}) == parsed().turn
    settings = request.settings
    assert (settings.previous_response_id, settings.conversation) == (
        use.base.previous_response_id,
        use.base.conversation_id,
    )
    assert settings.background == use.background


def test_a_response_continues_one_thing() -> None:
    error = rejection("previous_response_id", previous_response_id="resp_1", conversation="conv_1")
    assert "exclude each other" in error.message


@pytest.mark.parametrize("input", [None, []])
def test_a_request_that_continues_may_have_no_input(input: object) -> None:
    request = parsed(input=input, previous_response_id="resp_1")
    assert request.turn.messages == []
    rejection("input", input=input)


@pytest.mark.parametrize("value", [{"id": 1}, {}, {"id": "conv_1", "metadata": {}}, 1])
def test_a_conversation_has_an_id(value: object) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(conversation=value)
    assert str(raised.value.param).startswith("conversation")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("foo", 1),
        ("foo", None),
        ("max_tokens", 1),
        ("max_completion_tokens", 1),
        ("messages", [user()]),
        ("reasoning_effort", "low"),
        ("response_format", {"type": "text"}),
        ("verbosity", "low"),
        ("n", 2),
        ("functions", []),
        ("logprobs", True),
        ("moderation", {"model": "m"}),
        ("access_programs", {"cyber": "standard"}),
        ("background_options", {}),
        ("image", {"context_compression": "auto"}),
        ("context_management", [{"type": "compaction", "compact_threshold": 1000}]),
    ],
)
def test_other_fields_are_refused(field: str, value: object) -> None:
    rejection(field, **{field: value})


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("input", {"input": None}),
        ("input", {"input": 1}),
        ("instructions", {"instructions": ["a"]}),
        ("max_output_tokens", {"max_output_tokens": -1}),
        ("max_tool_calls", {"max_tool_calls": 0}),
        ("temperature", {"temperature": 3}),
        ("top_logprobs", {"top_logprobs": 21}),
        ("truncation", {"truncation": "middle"}),
        ("include[1]", {"include": ["reasoning.encrypted_content", "x"]}),
        ("include[0]", {"include": [1]}),
        ("reasoning.effort", {"reasoning": {"effort": "huge"}}),
        ("reasoning.summary", {"reasoning": {"summary": "long"}}),
        ("reasoning.foo", {"reasoning": {"foo": 1}}),
        ("reasoning.mode", {"reasoning": {"mode": "pro"}}),
        ("text.format.type", {"text": {"format": {"type": "xml"}}}),
        ("text.format.type", {"text": {"format": {}}}),
        ("text.format.name", {"text": {"format": {"type": "json_schema", "schema": {}}}}),
        ("text.format.schema", {"text": {"format": {"type": "json_schema", "name": "a"}}}),
        ("text.format.json_schema", {"text": {"format": {**NAMED, "json_schema": {}}}}),
        ("text.verbosity", {"text": {"verbosity": "none"}}),
        ("text", {"text": {"format": {**NAMED, "schema": {"enum": [0] * 70_000}}}}),
        ("metadata", {"metadata": {str(i): "a" for i in range(17)}}),
        ("metadata." + "a" * 65, {"metadata": {"a" * 65: "a"}}),
        ("metadata.a", {"metadata": {"a": "a" * 513}}),
        ("metadata[...]", {"metadata": {"a": 1}}),
        ("safety_identifier", {"safety_identifier": "a" * 129}),
        ("stream_options.include_obfuscation", {"stream_options": {"include_obfuscation": True}}),
        ("regex", {"text": {"format": NAMED}, "regex": "a"}),
        ("grammar", {"grammar": 'root ::= "a"', "regex": "a"}),
        ("repeat_penalty", {"repeat_penalty": 1.1, "repetition_penalty": 1.2}),
        ("logit_bias", {"logit_bias": {"a": 1}}),
    ],
)
def test_invalid_values_are_refused(param: str, body: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(**body)
    assert raised.value.param == param


def test_null_is_absent_everywhere() -> None:
    names = (
        "instructions",
        "tools",
        "tool_choice",
        "text",
        "reasoning",
        "include",
        "metadata",
        "stream",
        "stop",
        "seed",
    )
    assert parsed(**dict.fromkeys(names)) == parsed()
    nulls = {"text": {"format": None, "verbosity": None}, "reasoning": {"effort": None, "summary": None}}
    assert parsed(**nulls).turn == parsed().turn
    assert parsed(metadata={"a": None}).settings.metadata == {}


# ---- Turn


def test_sampling_has_the_names_of_this_server() -> None:
    values = {"temperature": 0, "seed": 7, "top_k": 3, "min_p": 0.1, "stop": ["a"], "logit_bias": {"5": 1}}
    turn = parsed(**values, repeat_penalty=1.5, max_output_tokens=9, model="m").turn
    assert {name: getattr(turn.sampling, name) for name in values} == values
    assert turn.sampling.repetition_penalty == 1.5
    assert (turn.model, turn.token_limit) == ("m", 9)
    names = ("repetition_penalty", "token_limit", "messages", "tool_use", "reasoning_effort", "prompt")
    assert list(map(turn.name, names)) == [
        *("repeat_penalty", "max_output_tokens", "input", "tool_choice", "reasoning.effort", "input")
    ]


@pytest.mark.parametrize(
    ("body", "guide"),
    [
        ({"text": {"format": {"type": "text"}}}, Guide()),
        ({"text": {"format": {"type": "json_object"}}}, Guide(field="text.format", json_schema={"type": "object"})),
        ({"text": {"format": NAMED}}, Guide(field="text.format", json_schema=SCHEMA, name="answer")),
        (
            {"text": {"format": {**NAMED, "strict": True, "description": "d"}}},
            Guide(field="text.format", json_schema=SCHEMA, name="answer", description="d", strict=True),
        ),
        ({"regex": "a+"}, Guide(field="regex", regex="a+")),
        ({"grammar": 'root ::= "a"'}, Guide(field="grammar", grammar='root ::= "a"')),
        ({"json_schema": SCHEMA}, Guide(field="json_schema", json_schema=SCHEMA)),
    ],
)
def test_a_guide(body: dict[str, Any], guide: Guide) -> None:
    assert parsed(**body).turn.guide == guide


def test_the_format_is_repeated_with_all_its_keys() -> None:
    assert parsed(text={"format": NAMED}).settings.text["format"] == {**NAMED, "description": None, "strict": False}


def test_logprobs_need_to_be_included() -> None:
    include = ["message.output_text.logprobs"]
    assert parsed(top_logprobs=3).turn.top_logprobs is None
    assert parsed(top_logprobs=3, include=include).turn.top_logprobs == 3
    assert parsed(include=include).turn.top_logprobs == 0
    assert parsed(include=include).include == {*include}


def test_reasoning() -> None:
    request = parsed(reasoning={"effort": "low", "generate_summary": "auto"}, enable_thinking=True)
    assert request.turn.template.reasoning_effort == "low"
    assert request.turn.template.enable_thinking
    assert request.turn.effort_is_hint
    assert request.settings.reasoning == {"effort": "low", "summary": "auto"}


@pytest.mark.parametrize("field", ["thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens"])
def test_a_limit_of_reasoning(field: str) -> None:
    turn = parsed(**{field: 5}).turn
    assert turn.reasoning_limit == 5
    assert turn.name("reasoning_limit") == field
    assert parsed(**{field: -1}).turn.reasoning_limit is None
    assert parsed(**{"thinking_token_budget": -1, field: 0}).turn.reasoning_limit == 0


def test_one_limit_of_reasoning_is_enough() -> None:
    rejection("reasoning_budget_tokens", thinking_token_budget=5, reasoning_budget_tokens=5)


# ---- Caps


def capped(caps: Caps, **body: Any) -> Any:
    return parse(json.dumps({"input": "x", **body}).encode(), caps)


def test_the_servers_limits_hold() -> None:
    assert capped(Caps(output_tokens=5)).turn.token_limit == 5
    for param, caps, body in (
        ("max_output_tokens", Caps(output_tokens=5), {"max_output_tokens": 6}),
        ("input", Caps(prompt=10), {"input": "a" * 11}),
        ("instructions", Caps(prompt=10), {"instructions": "a" * 11}),
        ("text.format", Caps(schema=20), {"text": {"format": NAMED}}),
        ("tools[0].parameters", Caps(schema=20), {"tools": [function(parameters=SCHEMA)]}),
    ):
        with pytest.raises(InvalidRequest) as raised:
            capped(caps, **body)
        assert raised.value.param == param
