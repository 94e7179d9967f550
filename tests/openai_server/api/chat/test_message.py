"""Events to messages and deltas, with keys in the order of OpenAI's API."""

import json

import pytest

from openai_server.api.chat.message import delta_of, message_of
from openai_server.core.events import CallArguments, CallBegun, Content, Event, Finish, Reasoning, Refusal
from openai_server.http.json_response import encode

CALL: list[Event] = [CallBegun(0, "f", "call_1"), CallArguments(0, '{"a":'), CallArguments(0, "1}")]
CUSTOM: list[Event] = [CallBegun(0, "c", "call_1", custom=True), CallArguments(0, "a\n", custom=True)]
FUNCTION = '{"name":"f","arguments":"{\\"a\\":1}"}'


@pytest.mark.parametrize(
    ("events", "legacy", "expected"),
    [
        ([Content("a"), Content("b")], False, '"content":"ab","refusal":null}'),
        ([Reasoning("r"), Content("a")], False, '"content":"a","refusal":null,"reasoning_content":"r"}'),
        (
            CALL,
            False,
            f'"content":null,"refusal":null,"tool_calls":[{{"id":"call_1","type":"function","function":{FUNCTION}}}]}}',
        ),
        (
            [*CUSTOM, CallArguments(0, "b", custom=True)],
            False,
            '"content":null,"refusal":null,"tool_calls":'
            '[{"id":"call_1","type":"custom","custom":{"name":"c","input":"a\\nb"}}]}',
        ),
        ([*CALL, CallBegun(1, "g", "call_2")], True, f'"content":null,"refusal":null,"function_call":{FUNCTION}}}'),
        ([], False, '"content":"","refusal":null}'),
        ([Refusal("I can"), Refusal("not.")], False, '"content":null,"refusal":"I cannot."}'),
    ],
)
def test_events_become_a_message(events: list[Event], legacy: bool, expected: str) -> None:
    assert encode(message_of(events, legacy=legacy)).decode() == '{"role":"assistant",' + expected


def test_the_content_of_a_message_that_must_call_is_none() -> None:
    assert message_of([], must_call=True).content is None


@pytest.mark.parametrize(
    ("event", "legacy", "expected"),
    [
        (Content("a"), False, '{"content":"a"}'),
        (Reasoning("r"), False, '{"reasoning_content":"r"}'),
        (
            CALL[0],
            False,
            '{"tool_calls":[{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}]}',
        ),
        (CALL[2], False, '{"tool_calls":[{"index":0,"function":{"arguments":"1}"}}]}'),
        (Refusal("no"), False, '{"refusal":"no"}'),
        (
            CUSTOM[0],
            False,
            '{"tool_calls":[{"index":0,"id":"call_1","type":"custom","custom":{"name":"c","input":""}}]}',
        ),
        (CUSTOM[1], False, '{"tool_calls":[{"index":0,"custom":{"input":"a\\n"}}]}'),
        (CALL[0], True, '{"function_call":{"name":"f","arguments":""}}'),
        (CALL[2], True, '{"function_call":{"arguments":"1}"}}'),
    ],
)
def test_an_event_becomes_a_delta(event: Event, legacy: bool, expected: str) -> None:
    assert encode(delta_of(event, legacy=legacy)).decode() == expected
    json.loads(expected)


def test_an_event_without_effect_has_no_delta() -> None:
    assert delta_of(Finish("stop")) is None
    assert delta_of(CallBegun(1, "g", "call_2"), legacy=True) is None
    assert delta_of(CallArguments(1, "{}"), legacy=True) is None
