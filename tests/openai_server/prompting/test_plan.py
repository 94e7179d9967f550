"""Plans of chat requests, for models with and without tools and reasoning."""

import json
from collections.abc import Container
from datetime import datetime
from typing import Any

import pytest
from msgspec import to_builtins

from openai_server.api.chat.message import message_of
from openai_server.api.schemas import parse_chat
from openai_server.backends.dialects.base import CHATML_BY_DEFAULT, DEFAULT_TEMPLATE
from openai_server.backends.dialects.inputs import EVERYTHING
from openai_server.core.errors import InvalidRequest, NoChatTemplate, UnsupportedParameter
from openai_server.core.events import Content, Finish
from openai_server.core.messages import UserMessage
from openai_server.core.tools import FunctionDefinition, Tool, ToolUse
from openai_server.core.turn import Sampling, TemplateOptions, Turn
from openai_server.parsing.choice_reader import ChoiceReader
from openai_server.prompting.plan import Plan, Planner
from openai_server.prompting.template import CHATML_END, Templates
from protos import contract
from tests.openai_server.parsing.grammars import accepted

PLAIN = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
"""A template without tools and reasoning."""
HERMES = (
    "{% if tools %}[tools]{% for tool in tools %}{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for call in m.tool_calls %}"
    '<tool_call>\n{"name": "{{ call.function.name }}", '
    '"arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}{% endfor %}[assistant]"
    "{% if enable_thinking %}<think>\n{% elif enable_thinking is defined %}<think>\n\n</think>\n\n{% endif %}"
)
"""A template in the style of Qwen."""
ALWAYS_THINKS = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content.split('</think>')[-1] }}{% endfor %}[assistant]<think>\n"
)
"""A template without a switch for reasoning, in the style of DeepSeek R1."""
USER = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
STRICT = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, "strict": True}}
OBJECT = {"type": "json_object"}


def parameters_with(template: str) -> dict[str, str]:
    """The parameters of a model of a worker; without a template, it gets ChatML."""
    return {"chat_template": template} if template else {DEFAULT_TEMPLATE: CHATML_BY_DEFAULT}


def templates_of_tests() -> Templates:
    return Templates(clock=lambda: 0.0, now=lambda: datetime(2026, 3, 4), seconds=1, characters=100_000)


def plan(
    *messages: dict[str, Any], template: str = PLAIN, input_names: Container[str] = EVERYTHING, **body: Any
) -> Plan:
    planner = Planner(templates_of_tests(), new_id=lambda: "call_new")
    turn = parse_chat(json.dumps({"messages": list(messages) or [USER], **body}).encode()).turn()
    return planner.plan(turn, parameters_with(template), input_names)


def plan_of(source: str = PLAIN, *, input_names: Container[str] = EVERYTHING, **fields: Any) -> Plan:
    """Returns the plan of a turn with these fields."""
    planner = Planner(templates_of_tests(), new_id=lambda: "call_new")
    turn = Turn(**{"messages": [UserMessage("hi")], "sampling": Sampling(), "names": {}, **fields})
    return planner.plan(turn, parameters_with(source), input_names)


def rejection(param: str, **body: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        plan(**body)
    assert caught.value.param == param
    return caught.value


def lark(result: Plan) -> str:
    (source,) = result.inputs.get(contract.LARK, [b""])
    return str(source.decode())


def message_for(result: Plan, text: str) -> dict[str, Any]:
    format = result.format
    assert format is not None
    events = ChoiceReader(format).read(text, "stop")
    return dict(to_builtins(message_of(events, legacy=format.legacy, must_call=format.must_call)))


# ---- Prompts


def test_a_plain_chat_has_only_a_prompt() -> None:
    result = plan()
    assert result == Plan(result.turn, "[user]hi[assistant]")


@pytest.mark.parametrize("parameters", [{}, {"chat_template": ""}, {"chat_template_tool_use": "x"}])
def test_a_model_of_another_server_without_a_template_cannot_chat(parameters: dict[str, str]) -> None:
    planner = Planner(templates_of_tests(), new_id=lambda: "call_new")
    turn = parse_chat(json.dumps({"messages": [USER]}).encode()).turn()
    for work in (planner.plan, planner.prompt):
        with pytest.raises(NoChatTemplate, match="--chat-template NAME=FILE and --tokenizer NAME=FOLDER"):
            work(turn, parameters, EVERYTHING)
    with pytest.raises(NoChatTemplate) as caught:
        planner.template_for(turn, parameters)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "model", "unsupported_task")


def test_a_model_of_the_worker_without_a_template_gets_chatml() -> None:
    result = plan(template="")
    assert result.prompt == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    assert result.turn.sampling.stop == [CHATML_END]
    assert plan(template="", input_names={"prompt"}).turn.sampling.stop is None


def test_the_last_message_is_continued() -> None:
    unfinished = {"role": "assistant", "content": "I sa"}
    assert plan(USER, unfinished, continue_final_message=True).prompt == "[user]hi[assistant]I sa"
    assert plan(add_generation_prompt=False).prompt == "[user]hi"


def test_template_variables_are_passed() -> None:
    assert plan(template="{{ x }}", chat_template_kwargs={"x": "y"}).prompt == "y"
    rejection("chat_template_kwargs.messages", chat_template_kwargs={"messages": []})


# ---- Reasoning


@pytest.mark.parametrize("body", [{"enable_thinking": True}, {"reasoning_effort": "low"}])
def test_thinking_can_be_enabled(body: dict[str, Any]) -> None:
    result = plan(template=HERMES, **body)
    assert result.prompt.endswith("<think>\n")
    assert result.inputs == {contract.MARK_END: [b"</think>"]}
    assert message_for(result, "I think.</think>\nSo.") == {
        "role": "assistant",
        "content": "So.",
        "refusal": None,
        "reasoning_content": "I think.",
    }


@pytest.mark.parametrize("body", [{"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_thinking_can_be_disabled(body: dict[str, Any]) -> None:
    result = plan(template=HERMES, **body)
    assert result.prompt.endswith("</think>\n\n")
    assert result.inputs[contract.MARK_BEGIN] == [b"<think>"]
    assert message_for(result, "So.")["content"] == "So."


BUDGETS = ("thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens")
GRAMMAR = {"grammar": 'root ::= "x"'}


def limited(field: str, value: int, **options: Any) -> Plan:
    return plan(**{field: value, **options})


@pytest.mark.parametrize("field", BUDGETS)
@pytest.mark.parametrize("others", [{}, GRAMMAR, {"tools": [TOOL], "tool_choice": "required"}])
def test_reasoning_can_be_limited(field: str, others: dict[str, Any]) -> None:
    inputs = limited(field, 7, template=HERMES, enable_thinking=True, **others).inputs
    assert inputs[contract.MAX_MARKED_TOKENS] == [7]
    assert inputs[contract.MARK_END] == [b"</think>"]
    assert contract.MARK_BEGIN not in inputs
    assert limited(field, 0, template=HERMES, **others).inputs[contract.MARK_BEGIN] == [b"<think>"]


@pytest.mark.parametrize("field", BUDGETS)
def test_no_limit_of_reasoning_is_sent_without_need(field: str) -> None:
    assert contract.MAX_MARKED_TOKENS not in limited(field, -1, template=HERMES).inputs
    assert limited(field, 7).inputs == {}  # the model doesn't reason
    assert limited(field, 7, input_names={"prompt"}).inputs == {}


@pytest.mark.parametrize("field", BUDGETS)
@pytest.mark.parametrize("missing", ["max_marked_tokens", "mark_begin", "mark_end"])
def test_a_backend_that_cannot_end_reasoning_refuses_its_limit(field: str, missing: str) -> None:
    input_names = {spec.name for spec in contract.INPUTS} - {missing}
    with pytest.raises(UnsupportedParameter) as caught:
        limited(field, 7, template=HERMES, input_names=input_names)
    assert caught.value.param == field
    limited(field, -1, template=HERMES, input_names=input_names)


def test_reasoning_effort_is_passed_to_a_template_that_uses_it() -> None:
    assert plan(template="{{ reasoning_effort }}", reasoning_effort="high").prompt == "high"


@pytest.mark.parametrize("thinking", [True, False])
def test_thinking_may_be_a_hint(thinking: bool) -> None:
    hint: dict[str, Any] = {"thinking_is_hint": True, "template": TemplateOptions(enable_thinking=thinking)}
    assert plan_of(HERMES, **hint).prompt == plan(template=HERMES, enable_thinking=thinking).prompt
    for template in (PLAIN, ALWAYS_THINKS):
        assert plan_of(template, **hint).prompt == plan(template=template).prompt


def test_effort_may_be_a_hint() -> None:
    for template in (PLAIN, ALWAYS_THINKS):
        options: dict[str, Any] = {"effort_is_hint": True, "template": TemplateOptions(reasoning_effort="high")}
        assert plan_of(template, **options).prompt == plan(template=template).prompt
    with pytest.raises(UnsupportedParameter):
        plan_of(PLAIN, template=TemplateOptions(reasoning_effort="high"))


def test_thinking_that_can_not_be_turned_off_can_be_turned_on() -> None:
    assert plan(template=ALWAYS_THINKS, enable_thinking=True).prompt == plan(template=ALWAYS_THINKS).prompt
    rejection("enable_thinking", template=ALWAYS_THINKS, enable_thinking=False)


@pytest.mark.parametrize("body", [{"enable_thinking": False}, {"reasoning_effort": "none"}])
def test_a_backend_ends_reasoning_that_the_template_can_not_turn_off(body: dict[str, Any]) -> None:
    input_names = {spec.name for spec in contract.INPUTS}
    result = plan(template=ALWAYS_THINKS, input_names=input_names, **body)
    assert result.prompt == plan(template=ALWAYS_THINKS).prompt
    assert result.inputs[contract.MAX_MARKED_TOKENS] == [0]
    assert result.inputs[contract.MARK_END] == [b"</think>"]
    [field] = body
    for missing in ("max_marked_tokens", "mark_begin", "mark_end"):
        rejection(field, template=ALWAYS_THINKS, input_names=input_names - {missing}, **body)
    rejection(field, template=ALWAYS_THINKS, **body)  # the backend doesn't list its inputs


@pytest.mark.parametrize("template", [HERMES, PLAIN])
def test_reasoning_that_the_template_turns_off_has_no_limit(template: str) -> None:
    input_names = {spec.name for spec in contract.INPUTS}
    result = plan(template=template, input_names=input_names, enable_thinking=False)
    assert contract.MAX_MARKED_TOKENS not in result.inputs


def test_a_required_call_after_a_useless_hint_may_follow_reasoning() -> None:
    hint: dict[str, Any] = {"thinking_is_hint": True, "template": TemplateOptions(enable_thinking=False)}
    use = ToolUse([Tool(FunctionDefinition("f"))], must_call=True)
    assert lark(plan_of(ALWAYS_THINKS, tools=use.tools, tool_use=use, **hint)) == lark(
        plan_of(ALWAYS_THINKS, tools=use.tools, tool_use=use)
    )


# ---- Stop strings


def test_a_stop_string_is_reported_on_request() -> None:
    sampling = Sampling(stop=["END"])
    for template, stops in ((PLAIN, ("END",)), ("", ("END", CHATML_END))):
        result = plan_of(template, sampling=sampling, reports_stop=True)
        assert result.inputs[contract.INCLUDE_STOP] == [True]
        assert result.format is not None
        assert result.format.stops == stops
        reader = ChoiceReader(result.format)
        assert reader.read("well") == [Content("well")]
        assert reader.read("END", "stop") == [Finish("stop", "END")]
    result = plan_of("", sampling=sampling, reports_stop=True)
    assert result.format is not None
    assert ChoiceReader(result.format).read(f"a{CHATML_END}", "stop") == [Content("a"), Finish("stop", CHATML_END)]


def test_no_stop_string_is_reported_without_need() -> None:
    for result in (
        plan_of(PLAIN, sampling=Sampling(stop=["END"])),
        plan_of(PLAIN, reports_stop=True),
        plan_of("", reports_stop=True),
        plan_of(PLAIN, sampling=Sampling(stop=["END"]), reports_stop=True, input_names=["prompt", "stop"]),
    ):
        assert contract.INCLUDE_STOP not in result.inputs
        assert result.format is None


def test_thinking_is_rejected_for_a_model_without_reasoning() -> None:
    assert isinstance(rejection("reasoning_effort", reasoning_effort="low"), UnsupportedParameter)
    assert isinstance(rejection("enable_thinking", enable_thinking=True), UnsupportedParameter)
    plan(reasoning_effort="none", enable_thinking=False)


# ---- Tools


def test_a_template_with_tools_gets_them() -> None:
    result = plan(template=HERMES, tools=[TOOL])
    assert result.prompt.startswith('[tools]{"type": "function", "function": {"name": "f"')
    called = message_for(result, 'Well. <tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>')
    assert called["tool_calls"] == [
        {"id": "call_new", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    ]
    assert not lark(result)


def test_a_template_without_tools_gets_instructions() -> None:
    result = plan(tools=[TOOL])
    assert result.prompt.startswith("[system]")
    assert '"f"' in result.prompt
    assert "tool_calls" in message_for(result, '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>')


def test_calls_and_results_become_text_for_a_template_without_tools() -> None:
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


def test_calls_of_the_older_api_become_text_too() -> None:
    call: Any = {"role": "assistant", "content": "Well.", "function_call": {"name": "f", "arguments": '{"a": 1}'}}
    prompt = plan(USER, call, {"role": "function", "name": "f", "content": "42"}).prompt
    assert prompt.startswith("[user]hi[assistant]Well.\n<tool_call>")
    assert "42" in prompt


def test_tools_are_left_out_if_the_choice_is_none() -> None:
    result = plan(template=HERMES, tools=[TOOL], tool_choice="none")
    assert result.prompt == "[user]hi[assistant]"


@pytest.mark.parametrize("template", [PLAIN, HERMES])
def test_a_required_call_is_enforced_by_a_grammar(template: str) -> None:
    named = {"type": "function", "function": {"name": "f"}}
    for choice in ("required", named):
        assert '"f"' in lark(plan(template=template, tools=[TOOL], tool_choice=choice)).replace("\\", "")
    assert lark(plan(template=template, tools=[STRICT]))
    assert lark(plan(template=template, functions=[TOOL["function"]], function_call={"name": "f"}))


def test_enforcement_is_rejected_for_a_backend_without_grammars() -> None:
    input_names = {"prompt"}
    rejection("tool_choice", tools=[TOOL], tool_choice="required", input_names=input_names)
    rejection("tools", tools=[STRICT], input_names=input_names)
    rejection("function_call", functions=[TOOL["function"]], function_call={"name": "f"}, input_names=input_names)
    assert plan(tools=[TOOL], input_names=input_names).inputs == {}


# ---- Formats


def test_a_format_alone_needs_no_grammar() -> None:
    assert plan(response_format=OBJECT).inputs == {}


@pytest.mark.parametrize(
    "body",
    [
        {"response_format": OBJECT},
        {"regex": "a/b"},
        {"guided_choice": ["a", "b"]},
        {"structured_outputs": {"grammar": 'start: "a"'}},
        {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
    ],
)
def test_a_format_after_reasoning_or_instead_of_a_call_is_part_of_the_grammar(body: dict[str, Any]) -> None:
    for result in (plan(template=HERMES, enable_thinking=True, **body), plan(tools=[TOOL], **body)):
        assert lark(result)
        assert not result.turn.guide, "the format must be sent only once"
    assert not lark(plan(template=HERMES, enable_thinking=False, **body)), "no reasoning precedes the format"


THOUGHT = "<think>\n2 { } // \n</think>\n\n"
CONTENTS: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "texts": ({"guided_choice": ["a", "ab\n", '"}']}, ["a", "ab\n", '"}'], ["ab", "b", ""]),
    "Lark": (
        {"guided_grammar": '%llguidance {}\nstart: "{" x* // }\nx: /[}]/ | "b" x'},
        ["{", "{bb}", "{}b}"],
        ["", "{b", "a"],
    ),
    "a schema": ({"guided_json": {"type": "array", "items": {"const": 1}}}, ["[]", "[1, 1]"], ["[1,1]", "[ ]", "[2]"]),
    "whitespace": (
        {"guided_json": {"type": "array", "items": {"const": 1}}, "guided_whitespace_pattern": "[ ]?"},
        ["[]", "[1,1]", "[ 1 , 1 ]"],
        ["[  1]", "[1,\n1]", "[2]"],
    ),
    "no whitespace": (
        {"structured_outputs": {"json": {"type": "array"}, "disable_any_whitespace": True}},
        ["[]", "[1,{}]"],
        ["[1, 2]", "[ ]"],
    ),
}


@pytest.mark.parametrize(("body", "good", "bad"), CONTENTS.values(), ids=CONTENTS)
def test_a_guide_applies_to_the_content_and_a_call_may_replace_it(
    body: dict[str, Any], good: list[str], bad: list[str]
) -> None:
    call = '<tool_call>\n{"name": "f", "arguments": {}}\n</tool_call>'
    for fields, thinks, calls in (
        ({"template": HERMES}, True, False),
        ({"template": HERMES, "tools": [TOOL]}, True, True),
        ({"template": PLAIN, "tools": [TOOL]}, False, True),
        ({"template": HERMES, "tools": [TOOL], "enable_thinking": False}, False, True),
    ):
        grammar = lark(plan(**fields, **body))
        for text in good:
            assert accepted(grammar, text)
            assert accepted(grammar, THOUGHT + text) is thinks
        for text in bad:
            assert not accepted(grammar, text)
            assert not accepted(grammar, THOUGHT + text)
        assert accepted(grammar, call) is calls


def test_texts_in_a_schema_are_closed_before_they_are_part_of_a_grammar() -> None:
    grammar = lark(plan(template=HERMES, guided_json={"type": "object", "properties": {"a": {}}}))
    assert accepted(grammar, '{"a": 1}')
    assert not accepted(grammar, '{"a": 1, "b": 2}')


def test_a_guide_that_is_too_long_for_a_grammar_is_refused_by_its_field() -> None:
    texts = ["x" * 1000] * 300
    rejection("guided_choice", template=HERMES, guided_choice=texts)
    rejection("tools", template=HERMES, guided_choice=texts, tools=[TOOL])


def test_gbnf_applies_to_the_raw_text() -> None:
    grammar = 'root ::= "a"'
    result = plan(template=HERMES, structured_outputs={"grammar": grammar})
    assert (result.turn.guide.grammar, result.format, lark(result)) == (grammar, None, "")


@pytest.mark.parametrize("body", [{"guided_choice": ["a"]}, {"ebnf": 'start: "a"'}])
def test_a_guide_that_needs_a_grammar_is_refused_by_its_field(body: dict[str, Any]) -> None:
    rejection(next(iter(body)), template=HERMES, input_names={"prompt", "regex"}, **body)


# ---- Tools that the answer may not call

LISTED = frozenset({contract.PROMPT.name, contract.LARK.name})
"""The inputs of a backend that can enforce grammars."""
OTHER = {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}}
CUSTOM = {"type": "custom", "custom": {"name": "c"}}
CALLS = [
    f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
    for name, arguments in (("f", "{}"), ("g", "{}"), ("c", '{"input": "x"}'))
]


def allowed(*tools: dict[str, Any], mode: str = "auto") -> dict[str, Any]:
    named = [{"type": t["type"], t["type"]: {"name": t[t["type"]]["name"]}} for t in tools]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": named}}


def test_other_tools_than_the_allowed_ones_cannot_be_called() -> None:
    result = plan(template=HERMES, input_names=LISTED, tools=[TOOL, OTHER, CUSTOM], tool_choice=allowed(TOOL, CUSTOM))
    f, g, c = CALLS
    assert '"name": "g"' not in result.prompt
    for text, expected in ((f, True), (c, True), (g, False), ("Hello.", True), (f"Hello.\n{f}\n{c}", True)):
        assert accepted(lark(result), text) == expected, text


def test_no_grammar_is_sent_where_all_tools_are_allowed() -> None:
    result = plan(template=HERMES, input_names=LISTED, tools=[TOOL, CUSTOM], tool_choice=allowed(TOOL, CUSTOM))
    assert not lark(result)


@pytest.mark.parametrize("input_names", [LISTED - {contract.LARK.name}, EVERYTHING])
def test_a_call_of_another_tool_is_dropped_without_a_grammar(input_names: Container[str]) -> None:
    f, g, c = CALLS
    body: dict[str, Any] = {"tools": [TOOL, OTHER, CUSTOM], "tool_choice": allowed(TOOL, CUSTOM)}
    result = plan(template=HERMES, input_names=input_names, **body)
    assert not lark(result)
    message = message_for(result, f"Hello.\n{g}\n{f}\n{g}\n{c}")
    assert message["content"] == "Hello."
    names = [(call["type"], call[call["type"]]["name"]) for call in message["tool_calls"]]
    assert names == [("function", "f"), ("custom", "c")]
    message = message_for(result, f"Hello.\n{g}")
    assert (message["content"], "tool_calls" in message) == ("Hello.", False)


@pytest.mark.parametrize("template", [PLAIN, HERMES])
def test_no_tool_can_be_called_if_the_choice_is_none(template: str) -> None:
    result = plan(template=template, input_names=LISTED, tools=[TOOL, CUSTOM], tool_choice="none")
    assert accepted(lark(result), "Hello <b>world</b>.")
    for call in CALLS[::2]:
        assert not accepted(lark(result), call)
        message = message_for(result, f"Hello.\n{call}")
        assert (message["content"], "tool_calls" in message) == ("Hello.", False)
    assert not lark(plan(template=template, tools=[TOOL], tool_choice="none"))


def test_a_guide_of_the_content_needs_no_second_one_if_the_choice_is_none() -> None:
    result = plan(input_names={*LISTED, "json_schema"}, tools=[TOOL], tool_choice="none", response_format=OBJECT)
    assert not lark(result)
    assert result.turn.guide


def test_a_call_of_an_unknown_tool_is_passed_on_where_all_tools_are_allowed() -> None:
    message = message_for(plan(template=HERMES, tools=[TOOL]), CALLS[1])
    assert message["tool_calls"][0]["function"]["name"] == "g"


# ---- Strict tools


def strict_tools(input_names: Container[str], *tools: Tool) -> tuple[bool, frozenset[str]]:
    turn = parse_chat(json.dumps({"messages": [USER], "tools": [TOOL]}).encode()).turn()
    turn.tools = tools
    turn.tool_use = ToolUse(tools)
    planner = Planner(templates_of_tests(), new_id=lambda: "call_new")
    result = planner.plan(turn, {"chat_template": HERMES}, input_names)
    assert result.format is not None
    return bool(lark(result)), result.format.strict_tools


def test_a_tool_without_a_decision_is_strict_where_that_is_possible() -> None:
    simple = Tool(FunctionDefinition("f", parameters={"type": "object", "properties": {"a": {"type": "string"}}}))
    complex = Tool(FunctionDefinition("g", parameters={"type": "object", "properties": {"a": {"not": {}}}}))
    assert strict_tools(LISTED, simple, complex) == (True, frozenset({"f"}))
    assert strict_tools(LISTED, complex) == (False, frozenset())
    for input_names in (LISTED - {contract.LARK.name}, EVERYTHING):
        assert strict_tools(input_names, simple) == (False, frozenset())


def test_a_custom_tool_with_a_grammar_is_strict() -> None:
    custom = {"name": "c", "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[ab]+"}}}
    result = plan(template=HERMES, input_names=LISTED, tools=[{"type": "custom", "custom": custom}])
    assert accepted(lark(result), CALLS[2].replace('"x"', '"abba"'))
    assert not accepted(lark(result), CALLS[2])
    assert not lark(plan(template=HERMES, input_names=LISTED, tools=[CUSTOM]))


@pytest.mark.parametrize(("syntax", "definition"), [("lark", "start: <|end|>"), ("regex", "a\\")])
def test_a_definition_that_cannot_be_enforced_is_refused_by_its_field(syntax: str, definition: str) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    tools = [TOOL, {"type": "custom", "custom": {"name": "c", "format": grammar}}]
    error = rejection("tools[1].custom.format.grammar.definition", template=HERMES, tools=tools)
    assert error.message.startswith("The ")


def test_a_backend_without_grammars_refuses_a_definition() -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a"}}
    tools = [{"type": "custom", "custom": {"name": "c", "format": grammar}}]
    rejection("tools", tools=tools, input_names=frozenset({contract.PROMPT.name}), template=HERMES)


@pytest.mark.parametrize("template", [PLAIN, HERMES])
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": [STRICT, {"type": "function", "function": {"name": "g"}}]},
        {"tools": [TOOL], "tool_choice": "required"},
        {"tools": [TOOL], "tool_choice": "none"},
        {"tools": [{"type": "custom", "custom": {"name": "c", "format": {"type": "text"}}}]},
        {"functions": [TOOL["function"]], "function_call": {"name": "f"}},
        {"guided_choice": ["a"], "chat_template_kwargs": {"x": 1}},
        {"add_generation_prompt": False},
    ],
)
def test_a_prompt_alone_is_the_plans_prompt(template: str, body: dict[str, Any]) -> None:
    """The tokens of a chat are counted from the former, and generation uses the latter."""
    planner = Planner(templates_of_tests(), new_id=lambda: "call_new")
    messages = [{"role": "user", "content": "a<|end|><tool_call>b"}, {"role": "assistant", "content": "<|end|>"}]
    turn = parse_chat(json.dumps({"messages": messages, **body}).encode()).turn()
    parameters = {"chat_template": template, "control_tokens": '["<|end|>"]'}
    for input_names in (EVERYTHING, LISTED, {"prompt"}):
        try:
            result = planner.plan(turn, parameters, input_names)
        except UnsupportedParameter:
            continue
        prompt = planner.prompt(turn, parameters, input_names)
        plain = [offset for span in prompt.plain for offset in span]
        assert (prompt.text, plain) == (result.prompt, result.inputs.get(contract.PLAIN_SPANS, []))
