"""System messages anywhere and several user messages in a row, for templates with rules about them."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest
from msgspec.structs import replace

from openai_server.core.messages import (
    AssistantMessage,
    CustomToolCall,
    DeveloperMessage,
    FunctionCall,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from openai_server.core.turn import Sampling, Turn
from openai_server.prompting.capabilities import Capabilities
from openai_server.prompting.fitting import fitted
from openai_server.prompting.messages import Form
from openai_server.prompting.plan import Planner
from openai_server.prompting.source import Words
from tests.openai_server.prompting.reference import BOS, EOS
from tests.openai_server.prompting.test_corpus import NAMES, TEMPLATES, source_of

S, D, U, A = SystemMessage("s"), DeveloperMessage("d"), UserMessage("u"), AssistantMessage("a")
CALLS = [ToolCall(f"call_{id}123456789abcdef", FunctionCall("f", '{"a": "b"}')) for id in "0xy"]
CALL = AssistantMessage(tool_calls=[CALLS[0]])
OTHER_CALL, OTHER_RESULT = AssistantMessage(tool_calls=[CALLS[1]]), ToolMessage("o", CALLS[1].id)
RESULT, NO_ANSWER = ToolMessage("r", "call_0123456789abcdef"), AssistantMessage(" ")


def capabilities(**missing: Any) -> Capabilities:
    """Returns all capabilities but those that are set to False."""
    names = ("system", "several_system", "late_system", "repeated_user", "user_after_result", "parallel_calls")
    return Capabilities(
        variables=frozenset(),
        roles=frozenset(),
        **(dict.fromkeys(names, True) | missing),
        form=Form(),
        words=Words(*[frozenset()] * len(Words.__match_args__)),
    )


ONE_SYSTEM = capabilities(several_system=False, late_system=False)
ALTERNATING = capabilities(several_system=False, late_system=False, repeated_user=False)
ONE_TURN = capabilities(several_system=False, late_system=False, repeated_user=False, user_after_result=False)
NO_SYSTEM = capabilities(system=False, several_system=False, late_system=False, repeated_user=False)


@pytest.mark.parametrize(
    ("messages", "found", "expected"),
    [
        ([S, D, U, A, S, U, U], capabilities(), [S, D, U, A, S, U, U]),
        ([S, U], ONE_SYSTEM, [S, U]),
        ([S, D, U], ONE_SYSTEM, [SystemMessage("s\n\nd"), U]),
        ([D, D, U], ONE_SYSTEM, [DeveloperMessage("d\n\nd"), U]),
        ([S, U, A, D, U], ONE_SYSTEM, [S, U, A, UserMessage("d"), U]),
        ([U, S], ONE_SYSTEM, [U, UserMessage("s")]),
        ([S, U, A, D, U], ALTERNATING, [S, U, A, UserMessage("d\n\nu")]),
        ([S, D, U, U, A, U], ALTERNATING, [SystemMessage("s\n\nd"), UserMessage("u\n\nu"), A, U]),
        ([S, U, A], NO_SYSTEM, [UserMessage("s\n\nu"), A]),
        ([S, D], NO_SYSTEM, [UserMessage("s\n\nd")]),
        ([UserMessage([TextPart("a"), TextPart("b")], "n"), U], ALTERNATING, [UserMessage("a\nb\n\nu", "n")]),
        ([U, CALL, RESULT, U, A], capabilities(user_after_result=False), [U, CALL, RESULT, NO_ANSWER, U, A]),
        ([U, CALL, RESULT, A, U], capabilities(user_after_result=False), [U, CALL, RESULT, A, U]),
        ([U, CALL, RESULT, S, U], ONE_TURN, [U, CALL, RESULT, NO_ANSWER, UserMessage("s\n\nu")]),
        (
            [U, replace(CALL, content="c", tool_calls=[*CALLS[:2]]), OTHER_RESULT, RESULT, A],
            capabilities(parallel_calls=False),
            [U, replace(CALL, content="c"), RESULT, OTHER_CALL, OTHER_RESULT, A],
        ),
        (
            [S, U, replace(CALL, tool_calls=[*CALLS]), RESULT, ToolMessage("?", "call_x"), U],
            capabilities(parallel_calls=False),
            [S, U, CALL, RESULT, OTHER_CALL, replace(CALL, tool_calls=[CALLS[2]]), ToolMessage("?", "call_x"), U],
        ),
        ([], NO_SYSTEM, []),
    ],
)
def test_only_refused_arrangements_are_changed(
    messages: list[Message], found: Capabilities, expected: list[Message]
) -> None:
    before = list(messages)
    assert list(fitted(messages, found)) == expected
    assert messages == before


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("{% for m in messages %}{{ m.content }}{% endfor %}", (True, True, True, True)),
        ("{{ messages[0].content }}{{ messages[-1].content }}", (True, False, False, True)),
        (
            "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('') }}{% endif %}"
            "{{ m.content }}{% endfor %}",
            (True, False, False, True),
        ),
        (
            "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('') }}"
            "{% endif %}{{ m.content }}{% endfor %}",
            (False, False, False, False),
        ),
    ],
)
def test_a_templates_rules_are_found(source: str, expected: tuple[bool, ...]) -> None:
    found = TEMPLATES.capabilities(source)
    assert (found.system, found.several_system, found.late_system, found.repeated_user) == expected


# ---- Real templates

AGENT: Sequence[Message] = (
    SystemMessage("text-1"),
    DeveloperMessage("text-2"),
    UserMessage("text-3"),
    UserMessage("text-4"),
    AssistantMessage("text-5"),
    DeveloperMessage("text-6"),
    UserMessage("text-7"),
)
"""Messages as agents send them: instructions, the client's rules, the surroundings, the question, a later rule."""
REFUSED = {"fireworks-ai-llama-3-firefunction-v2"}
"""Needs `functions` in `chat_template_kwargs`."""
NEED_TOOLS = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use",
}
"""Loop over `tools`, so they fail without tools."""

MOVES_SYSTEM = {"mistralai-Mistral-Nemo-Instruct-2407"}
"""Write the system message at the beginning of the last user message."""

NO_CALLS = {"Kimi-K2-Instruct", "Kimi-K2-Thinking", "llama-cpp-deepseek-r1"}
"""Append to a list, or encode a generator as JSON, which the sandbox forbids."""


@cache
def planner() -> Planner:
    return Planner(TEMPLATES, new_id=lambda: "call_1")


def prompt(name: str, messages: Sequence[Message]) -> str:
    turn = Turn(messages=messages, sampling=Sampling(), names={})
    parameters = {"chat_template": source_of(name), "bos_token": BOS, "eos_token": EOS}
    return planner().prompt(turn, parameters, set()).text


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED - NEED_TOOLS - MOVES_SYSTEM))
def test_an_agents_messages_are_in_the_prompt_once_and_in_their_order(name: str) -> None:
    text = prompt(name, AGENT)
    places = [text.find(f"text-{i}") for i in range(1, len(AGENT) + 1)]
    assert -1 not in places
    assert all(text.count(f"text-{i}") == 1 for i in range(1, len(AGENT) + 1))
    assert places == sorted(places)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED - NEED_TOOLS - NO_CALLS))
def test_a_user_may_write_after_a_result(name: str) -> None:
    text = prompt(name, [SystemMessage("text-1"), UserMessage("text-2"), CALL, RESULT, UserMessage("text-3")])
    assert all(text.count(f"text-{i}") == 1 for i in range(1, 4))


OMIT_CALLS = {"LFM2-8B-A1B", "ibm-granite-granite-3.3-2B-Instruct"}
"""Write the results of calls, but not the calls."""


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED - NEED_TOOLS - NO_CALLS - OMIT_CALLS))
def test_each_call_of_an_answer_is_in_the_prompt(name: str) -> None:
    ids = ("call_0123456789abcdef", "call_fedcba9876543210")
    calls: list[ToolCall | CustomToolCall] = [
        ToolCall(id, FunctionCall("f", f'{{"a": "text-{i}"}}')) for i, id in enumerate(ids, 1)
    ]
    results = [ToolMessage(f"text-{i}", id) for i, id in enumerate(ids, 3)]
    text = prompt(name, [UserMessage("question"), AssistantMessage(tool_calls=calls), *results])
    assert all(f"text-{i}" in text for i in range(1, 5))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - REFUSED - NEED_TOOLS - MOVES_SYSTEM))
def test_a_later_turn_keeps_the_prefix(name: str) -> None:
    first, later = prompt(name, AGENT[:4]), prompt(name, AGENT)
    end = first.find("text-4") + len("text-4")
    assert later.startswith(first[:end])
