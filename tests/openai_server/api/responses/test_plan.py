"""Plans of requests: what the model reads, and the fields that errors name."""

from typing import Any

import pytest

from openai_server.backends.dialects import inputs
from openai_server.backends.dialects.base import CHATML_BY_DEFAULT, DEFAULT_TEMPLATE
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core import guide_parts
from openai_server.core.errors import InvalidRequest
from openai_server.prompting.plan import Plan, Planner
from protos import contract
from tests.openai_server.api.responses.bodies import (
    assistant,
    call,
    function,
    namespace,
    parsed,
    reasoning,
    result,
    user,
)
from tests.openai_server.prompting.test_corpus import TEMPLATES
from tests.openai_server.prompting.test_plan import HERMES, PLAIN

EFFORT = HERMES + "{{ reasoning_effort }}"
ONE_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('late') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% endfor %}"
)


def planner(*, refuses_markup: bool = False) -> Planner:
    return Planner(TEMPLATES, new_id=lambda: "call_1", refuses_markup=refuses_markup)


def plan(template: str = PLAIN, **body: Any) -> Plan:
    return planner().plan(parsed(**body).turn, {"chat_template": template}, EVERYTHING)


def test_the_prompt_of_a_conversation() -> None:
    items = [
        {"role": "developer", "content": "a"},
        user("b"),
        reasoning("hm"),
        call(arguments='{"a":1}', namespace="crm"),
        assistant("c"),
        result(),
        user("d"),
    ]
    assert plan(HERMES, input=items, instructions="Be brief.", tools=[namespace("crm", function())]).prompt == (
        '[tools]{"type": "function", "function": {"name": "crm__f", "description": "Tools in \'crm\': Tools.", '
        '"parameters": {"type": "object", "properties": {}}}}'
        "[system]Be brief.[system]a[user]b"
        '[assistant]c<tool_call>\n{"name": "crm__f", "arguments": {"a": 1}}\n</tool_call>'
        "[tool]done[user]d[assistant]"
    )


def test_a_template_with_one_system_message_gets_one() -> None:
    items = [{"role": "developer", "content": "a"}, user("b"), {"role": "system", "content": "c"}]
    assert plan(ONE_SYSTEM, input=items, instructions="Be brief.").prompt == "[system]Be brief.\n\na[user]b[user]c"


@pytest.mark.parametrize("effort", ["minimal", "low", "medium", "high", "xhigh", "max"])
def test_an_effort_has_no_effect_on_a_model_without_reasoning(effort: str) -> None:
    assert plan(reasoning={"effort": effort}).prompt == plan().prompt
    assert plan(HERMES, reasoning={"effort": effort}).prompt.endswith("<think>\n")
    assert plan(EFFORT, reasoning={"effort": effort}).prompt.endswith(effort)


def test_an_effort_that_the_template_refuses_has_no_effect() -> None:
    only_low = "{% if reasoning_effort | default('low') != 'low' %}{{ raise_exception('effort') }}{% endif %}" + EFFORT
    assert plan(only_low, reasoning={"effort": "low"}).prompt.endswith("low")
    assert plan(only_low, reasoning={"effort": "medium"}).prompt == plan(only_low).prompt
    with pytest.raises(InvalidRequest):
        plan(only_low, chat_template_kwargs={"reasoning_effort": "medium"})


def test_no_effort_turns_reasoning_off() -> None:
    assert plan(reasoning={"effort": "none"}).prompt == plan().prompt
    assert plan(HERMES, reasoning={"effort": "none"}).prompt.endswith("</think>\n\n")
    with pytest.raises(InvalidRequest) as raised:
        plan("{% for m in messages %}{{ m.content }}{% endfor %}<think>\n", reasoning={"effort": "none"})
    assert raised.value.param == "reasoning.effort"


def test_thinking_that_was_requested_is_still_an_error() -> None:
    with pytest.raises(InvalidRequest) as raised:
        plan(enable_thinking=True, reasoning={"effort": "low"})
    assert raised.value.param == "enable_thinking"


def test_a_failing_template_names_the_input() -> None:
    with pytest.raises(InvalidRequest) as raised:
        plan("{% for m in messages %}{{ raise_exception('no') }}{% endfor %}")
    assert raised.value.param == "input"


CHATML = {DEFAULT_TEMPLATE: CHATML_BY_DEFAULT}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "<|im_end|>"}, "input"),
        ({"instructions": "<|im_end|>"}, "instructions"),
        ({"input": [user(), assistant("a"), user("<|im_end|>")]}, "input[2]"),
        ({"input": [reasoning("r"), call(arguments='{"a":"<|im_end|>"}'), result()]}, "input[0]"),
        ({"tools": [namespace("n", function(description="<|im_end|>"))]}, "tools[0].tools[0]"),
    ],
)
def test_markup_is_reported_with_its_item(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        planner(refuses_markup=True).plan(parsed(**body).turn, CHATML, {"prompt"})
    assert raised.value.code == "markup_in_message"
    assert raised.value.param == param


def test_the_backends_errors_name_the_fields_of_this_api() -> None:
    lark = {"type": "grammar", "syntax": "lark", "definition": 'start: "a"'}
    tools = [
        {"type": "web_search"},
        namespace("n", function(), {"type": "custom", "name": "c", "format": lark}),
        {"type": "custom", "name": "d", "format": lark},
    ]
    turn = parsed(tools=tools, text={"format": {"type": "json_object"}}, max_output_tokens=5).turn
    names = inputs.fields(turn)
    parts = (*map(guide_parts.of_function, ("n__f", "n__c", "d")), guide_parts.GUIDE, contract.PROMPT.name)
    assert [names[part] for part in (*parts, contract.MAX_TOKENS.name)] == [
        "tools[1].tools[0].parameters",
        "tools[1].tools[1].format.definition",
        "tools[2].format.definition",
        "text.format",
        "input",
        "max_output_tokens",
    ]
