"""What becomes of a chat request, for models with tools and thoughts of their own and without."""

import json
from collections.abc import Container
from datetime import datetime
from typing import Any

import pytest
from msgspec import to_builtins

from openai_server.api.chat.message import message_of
from openai_server.api.schemas import parse_chat
from openai_server.backends.dialects.anyserve.encode import EVERYTHING
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.parsing.choice_reader import ChoiceReader
from openai_server.prompting.plan import Plan, Planner
from openai_server.prompting.template import CHATML_END, Templates
from protos import contract

PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""Knows no tools, and no thoughts."""
HERMES = (
    "{% if tools %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for call in m.tool_calls %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endfor %}[assistant]"
    "{% if enable_thinking %}<think>\n{% elif enable_thinking is defined %}<think>\n\n</think>\n\n{% endif %}"
)
"""Qwen's manner."""
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
OBJECT = {"type": "json_object"}


def plan(
    *messages: dict[str, Any], template: str = PLAIN, input_names: Container[str] = EVERYTHING, **body: Any
) -> Plan:
    templates = Templates(clock=lambda: 0.0, now=lambda: datetime(2026, 3, 4), seconds=1, characters=100_000)
    planner = Planner(templates, chat_template=None, new_id=lambda: "call_new")
    turn = parse_chat(json.dumps({"messages": list(messages) or [USER], **body}).encode()).turn()
    return planner.plan(turn, {"chat_template": template} if template else {}, input_names)


def refused(param: str, **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        plan(**body)
    assert caught.value.param == param
    return caught.value


def lark(found: Plan) -> str:
    (source,) = found.inputs.get(contract.LARK, [b""])
    return str(source.decode())


def read(found: Plan, text: str) -> dict[str, Any]:
    format = found.format
    assert format is not None
    events = ChoiceReader(format).read(text, "stop")
    return dict(to_builtins(message_of(events, legacy=format.legacy, must_call=format.must_call)))


# ---- Prompts


def test_plain_text_is_not_read() -> None:
    found = plan()
    assert found == Plan(found.turn, "[user]hi[assistant]")


def test_chatml_for_a_model_without_a_template() -> None:
    found = plan(template="")
    assert found.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert found.turn.sampling.stop == [CHATML_END]
    assert plan(template="", input_names={"prompt"}).turn.sampling.stop is None


def test_the_last_message_is_continued() -> None:
    begun = {"role": "assistant", "content": "I sa"}
    assert plan(USER, begun, continue_final_message=True).prompt == "[user]hi[assistant]I sa"
    assert plan(add_generation_prompt=False).prompt == "[user]hi"


def test_variables_of_the_template() -> None:
    assert plan(template="{{ x }}", chat_template_kwargs={"x": "y"}).prompt == "y"
    refused("chat_template_kwargs.messages", chat_template_kwargs={"messages": []})


# ---- Thinking


@pytest.mark.parametrize("body", [{"enable_thinking": True}, {"reasoning_effort": "low"}])
def test_thinking_is_switched_on(body: dict[str, Any]) -> None:
    found = plan(template=HERMES, **body)
    assert found.prompt.endswith("<think>\n")
    assert found.inputs == {contract.MARK_END: [b"</think>"]}
    assert read(found, "I think.</think>\nSo.") == {
        "role": "assistant",
        "content": "So.",
        "refusal": None,
        "reasoning_content": "I think.",
    }


@pytest.mark.parametrize("body", [{"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_thinking_is_switched_off(body: dict[str, Any]) -> None:
    found = plan(template=HERMES, **body)
    assert found.prompt.endswith("</think>\n\n")
    assert found.inputs[contract.MARK_BEGIN] == [b"<think>"]
    assert read(found, "So.")["content"] == "So."


def test_effort_goes_to_who_knows_it() -> None:
    assert plan(template="{{ reasoning_effort }}", reasoning_effort="high").prompt == "high"


def test_a_model_that_does_not_think_can_not_be_told_to() -> None:
    assert isinstance(refused("reasoning_effort", reasoning_effort="low"), UnsupportedParameter)
    assert isinstance(refused("enable_thinking", enable_thinking=True), UnsupportedParameter)
    plan(reasoning_effort="none", enable_thinking=False)


# ---- Tools


def test_a_template_with_tools_gets_them() -> None:
    found = plan(template=HERMES, tools=[TOOL])
    assert found.prompt.startswith('[tools]{"type": "function", "function": {"name": "f"')
    called = read(found, 'Well. <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')
    assert called["tool_calls"] == [
        {"id": "call_new", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert not lark(found)


def test_a_template_without_tools_is_told_of_them_in_words() -> None:
    found = plan(tools=[TOOL])
    assert found.prompt.startswith("[system]")
    assert '"f"' in found.prompt
    assert "tool_calls" in read(found, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')


def test_calls_and_results_of_the_history_are_text_to_a_template_without_tools() -> None:
    call: Any = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages: list[Any] = [
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    prompt = plan(*messages).prompt
    assert '"a"' in prompt
    assert "42" in prompt
    assert "None" not in prompt


def test_calls_of_the_older_api_are_text_as_well() -> None:
    call: Any = {"role": "assistant", "content": "Well.", "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    prompt = plan(USER, call, {"role": "function", "name": "f", "content": "42"}).prompt
    assert prompt.startswith("[user]hi[assistant]Well.\n<tool_call>")
    assert "42" in prompt


def test_tools_that_must_not_be_called_are_not_told() -> None:
    found = plan(template=HERMES, tools=[TOOL], tool_choice="none")
    assert found.prompt == "[user]hi[assistant]"


@pytest.mark.parametrize("template", [PLAIN, HERMES])
def test_a_call_that_must_be_is_held_to(template: str) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        assert '"f"' in lark(plan(template=template, tools=[TOOL], tool_choice=choice)).replace("\\", "")
    assert lark(plan(template=template, tools=[STRICT]))
    assert lark(plan(template=template, functions=[TOOL["function"]], function_call={"name": "f"}))


def test_a_backend_that_can_not_hold_to_anything() -> None:
    input_names = {"prompt"}
    refused("tool_choice", tools=[TOOL], tool_choice="required", input_names=input_names)
    refused("tools", tools=[STRICT], input_names=input_names)
    refused("function_call", functions=[TOOL["function"]], function_call={"name": "f"}, input_names=input_names)
    assert plan(tools=[TOOL], input_names=input_names).inputs == {}


# ---- Formats


def test_a_format_alone_is_the_backends_business() -> None:
    assert plan(response_format=OBJECT).inputs == {}


@pytest.mark.parametrize("body", [{"response_format": OBJECT}, {"regex": "a/b"}])
def test_a_format_after_a_thought_or_in_place_of_a_call(body: dict[str, Any]) -> None:
    for found in (plan(template=HERMES, enable_thinking=True, **body), plan(tools=[TOOL], **body)):
        assert lark(found)
        assert not found.turn.guide, "it is said once"
    assert not lark(plan(template=HERMES, enable_thinking=False, **body)), "there is no thought to come behind"
