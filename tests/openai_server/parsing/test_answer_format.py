import pytest

from openai_server.core.tools import Tool
from openai_server.parsing.answer_format import grammar_for, parser_for, span_of, strict_grammar_for, thoughts_of
from openai_server.parsing.tools.formats import format_of
from openai_server.parsing.tools.harmony import HARMONY
from tests.openai_server.parsing.answers import Answer, Call, same_at_every_cut
from tests.openai_server.parsing.grammars import accepted
from tests.openai_server.parsing.tools.cases import PARIS, TOOLS
from tests.templates import template_paths

CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'


def source(name: str) -> str:
    return template_paths()[name].read_text()


CASES: list[tuple[str, str, list[Tool] | None, str, Answer]] = [
    ("google-gemma-2-2b-it", "<start_of_turn>model\n", None, f"<think>a {CALL}", Answer(f"<think>a {CALL}")),
    ("google-gemma-2-2b-it", "<start_of_turn>model\n", TOOLS, CALL, Answer("", [PARIS])),
    ("Qwen-Qwen3-0.6B", "assistant\n", TOOLS, f"<think>\na\n</think>\n\n{CALL}", Answer("", [PARIS], "a")),
    ("Qwen-Qwen3-0.6B", "assistant\n", None, f"<think>\na\n</think>\n\n{CALL}", Answer(CALL, [], "a")),
    ("Qwen-Qwen3-0.6B", "assistant\n<think>\n\n</think>\n\n", TOOLS, f"b {CALL}", Answer("b", [PARIS])),
    ("Qwen-QwQ-32B", "assistant\n<think>\n", TOOLS, f"a {CALL}</think>\n{CALL}", Answer("", [PARIS], f"a {CALL}")),
    (
        "mistralai-Ministral-3-14B-Reasoning-2512",
        "[/INST]",
        TOOLS,
        '[THINK]a[/THINK][TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}',
        Answer("", [PARIS], "a"),
    ),
    (
        "Kimi-K2-Thinking",
        "<|im_middle|>",
        TOOLS,
        "<think>a<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}"
        "<|tool_call_end|><|tool_calls_section_end|>",
        Answer("", [Call("now", "{}", "functions.now:0")], "a"),
    ),
    (
        "CohereForAI-c4ai-command-r7b-12-2024-tool_use",
        "<|CHATBOT_TOKEN|>",
        None,
        "<|START_THINKING|>a<|END_THINKING|><|START_RESPONSE|>b<|END_RESPONSE|>",
        Answer("b", [], "a"),
    ),
    ("meetkai-functionary-medium-v3.2", "assistant\n\n>>>", None, "all\na >>> b", Answer("a >>> b")),
    (
        "meetkai-functionary-medium-v3.2",
        "assistant\n\n>>>",
        TOOLS,
        'get_weather\n{"city": "Paris"}',
        Answer("", [PARIS]),
    ),
    (
        "openai-gpt-oss-120b",
        "<|start|>user<|message|>Hi<|end|><|start|>assistant",
        None,
        "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
        Answer("b", [], "a"),
    ),
    (
        "openai-gpt-oss-120b",  # the answer continues with a message
        "<|start|>assistant<|channel|>analysis<|message|>a",
        None,
        "b<|end|><|start|>assistant<|channel|>final<|message|>c",
        Answer("c", [], "b"),
    ),
    ("openai-gpt-oss-120b", "<|start|>assistant", None, "plain", Answer("plain")),
    (
        "ibm-granite-granite-3.3-2B-Instruct",
        "",
        None,
        "<think>a</think><response>b</response>",
        Answer("b", [], "a"),
    ),
]


@pytest.mark.parametrize(("template", "prompt", "tools", "text", "expected"), CASES, ids=[case[0] for case in CASES])
def test_answers_are_parsed_in_the_format_of_the_template(
    template: str, prompt: str, tools: list[Tool] | None, text: str, expected: Answer
) -> None:
    assert same_at_every_cut(lambda: parser_for(source(template), prompt, tools), text) == expected


def test_grammars_allow_reasoning_before_a_call() -> None:
    template = source("Qwen-QwQ-32B")
    for grammar in (
        grammar_for(template, "assistant\n<think>\n", TOOLS, parallel=False, function_name="get_weather"),
        strict_grammar_for(template, "assistant\n<think>\n", TOOLS, parallel=False),
    ):
        assert accepted(grammar, f"a</think>\n\n{CALL}")
        assert not accepted(grammar, CALL)
    assert accepted(grammar_for(template, "assistant\n", TOOLS, parallel=True), f"{CALL}\n{CALL}")
    assert not accepted(grammar_for(template, "assistant\n", TOOLS, parallel=False), f"{CALL}\n{CALL}")
    assert not accepted(grammar_for(template, "assistant\n", TOOLS, parallel=False, function_name="now"), CALL)


def test_a_reasoning_tag_in_an_older_message_does_not_affect_grammars() -> None:
    grammar = grammar_for(source("Qwen-Qwen3-0.6B"), "what is <think>? assistant\n", TOOLS, parallel=False)
    assert accepted(grammar, CALL)


REASONING_TEMPLATES = [name for name, path in template_paths().items() if span_of(path.read_text(), "x")]


def test_most_families_of_reasoning_models_have_a_template_here() -> None:
    assert len(REASONING_TEMPLATES) > 30


@pytest.mark.parametrize("name", REASONING_TEMPLATES)
@pytest.mark.parametrize("thought", ["some thought", ""])
def test_reasoning_that_the_backend_ends_is_separated_from_the_answer(name: str, thought: str) -> None:
    """A limit of 0 tokens ends it directly behind the first mark."""
    template = source(name)
    span, thoughts = span_of(template, "x"), thoughts_of(template)
    assert span is not None
    before, after = "", ""
    if format_of(template) is HARMONY:
        before = "<|start|>assistant<|channel|>final<|message|>"
    elif thoughts is not None and thoughts.answer:
        before, after = thoughts.answer
    text = f"{span.begin}{thought}{span.ends[0]}{before}Yes{after}"
    assert same_at_every_cut(lambda: parser_for(template, "x", None), text) == Answer("Yes", [], thought)
