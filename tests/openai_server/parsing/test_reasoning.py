import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.core.events import Content, Reasoning
from openai_server.parsing.parser import Parser, PlainParser
from openai_server.parsing.reasoning import ReasoningParser, ReasoningTags, starts_inside, tags_of
from tests.openai_server.parsing.answers import Answer, answer, cuts, same_at_every_cut

THINK = ReasoningTags("<think>", "</think>")
WRAPPED = ReasoningTags("<think>", "</think>", answer=("<response>", "</response>"))
LAST_ONLY = ReasoningTags("Steps:", "[FINAL]", answer=("", "[/FINAL]"))
EARLY_END = ReasoningTags("<think>", "</think>", other_ends=("<|call|>",))


def parser(tags: ReasoningTags = THINK, *, inside: bool = False) -> Parser:
    return ReasoningParser(tags, PlainParser(), inside)


CASES = [
    (THINK, False, "<think>a\nb</think>c", "a\nb", "c"),
    (THINK, False, " \n<think>\n\na b \n</think>\n\n c ", "a b", "c "),
    (THINK, False, "<think></think>c", "", "c"),
    (THINK, False, "<think>\n\n</think>\n\n", "", ""),
    (THINK, False, "c", "", "c"),
    (THINK, False, " \n c", "", " \n c"),
    (THINK, False, "c <think>x</think>", "", "c <think>x</think>"),
    (THINK, False, "<thin", "", "<thin"),
    (THINK, False, "<thinner>x", "", "<thinner>x"),
    (THINK, False, "<think>a</thin</think>b</think>c", "a</thin", "b</think>c"),
    (THINK, False, "<think>a ", "a ", ""),
    (THINK, False, "<think>a</thi", "a</thi", ""),
    (THINK, False, "", "", ""),
    (THINK, True, "a</think>c", "a", "c"),
    (THINK, True, "\n\na\n</think>\n\nc", "a", "c"),
    (THINK, True, "<think>a</think>c", "a", "c"),
    (THINK, True, "a", "a", ""),
    (THINK, True, "</think>c", "", "c"),
    (WRAPPED, False, "<think>a</think>\n<response>c</response>\n", "a", "c"),
    (WRAPPED, False, "<think>a</think>b </response> c</response>", "a", "b </response> c"),
    (WRAPPED, False, "<response>c</response>", "", "c"),
    (WRAPPED, False, "c</respon", "", "c</respon"),
    (LAST_ONLY, True, "a\n[FINAL]\nc[/FINAL]", "a", "c"),
    (EARLY_END, False, "<think>a <|call|>f", "a", "<|call|>f"),
    (EARLY_END, False, "<think>a</think> <|call|>f", "a", "<|call|>f"),
]


@pytest.mark.parametrize(("tags", "inside", "text", "reasoning", "content"), CASES)
def test_reasoning_is_parsed_the_same_at_every_cut(
    tags: ReasoningTags, inside: bool, text: str, reasoning: str, content: str
) -> None:
    assert same_at_every_cut(lambda: parser(tags, inside=inside), text) == Answer(content, [], reasoning)


@pytest.mark.parametrize(("tags", "inside", "text", "reasoning", "content"), CASES)
def test_incomplete_reasoning_is_parsed_the_same_at_every_cut(
    tags: ReasoningTags, inside: bool, text: str, reasoning: str, content: str
) -> None:
    for end in range(len(text)):
        same_at_every_cut(lambda: parser(tags, inside=inside), text[:end])


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "a", " ", "\n", "</thi"]), max_size=8), st.booleans())
def test_only_tags_and_whitespace_around_them_are_removed(parts: list[str], inside: bool) -> None:
    text = "".join(parts)
    whole = answer(parser(inside=inside), [text])
    for pieces in cuts(text):
        assert answer(parser(inside=inside), pieces) == whole
    thought, end, rest = text.partition("</think>")
    opened = thought.lstrip().startswith("<think>")
    if not opened and not inside:
        assert whole == Answer(text)
    else:
        thought = thought.lstrip().removeprefix("<think>").lstrip()
        assert whole == Answer(rest.lstrip(), [], thought.rstrip() if end else thought)


def test_reasoning_is_streamed() -> None:
    reasoning_parser = parser()
    events = [reasoning_parser.push(piece) for piece in ("<think>", "a", " b", " <", "c", "</think>", "\n", "d")]
    assert events == [
        [],
        [Reasoning("a")],
        [Reasoning(" b")],
        [],
        [Reasoning(" <c")],
        [],
        [],
        [Content("d")],
    ]


@pytest.mark.parametrize(
    ("template", "tags"),
    [
        ("no thoughts", None),
        ("{{ '<think>\n' }}", ("<think>", "</think>")),
        ("{{ x.split('</think>') }}", ("<think>", "</think>")),
        ("[THINK] [/THINK]", ("[THINK]", "[/THINK]")),
        ("<|START_THINKING|><|END_THINKING|>", ("<|START_THINKING|>", "<|END_THINKING|>")),
        ("<seed:think>", ("<seed:think>", "</seed:think>")),
        (
            "'Here is my thought process:' … 'Here is my response:'",
            ("Here is my thought process:", "Here is my response:"),
        ),
        (
            "{{ 'Here are my reasoning steps:\n' }} [BEGIN FINAL RESPONSE]",
            ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
        ),
        ("<|tool_call_begin|>", None),
        ("<|tool_call_begin|> <think>", ("<think>", "</think>")),
    ],
)
def test_reasoning_tags_are_found_in_templates(template: str, tags: tuple[str, str] | None) -> None:
    actual = tags_of(template)
    assert (actual and (actual.begin, actual.end)) == tags


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("<|assistant|><think>", True),
        ("<|assistant|><think>\n", True),
        ("<|assistant|><think>\n\n</think>\n\n", False),
        ("<|user|>what is <think>?<|assistant|>", False),
        ("<|assistant|>", False),
        ("", False),
    ],
)
def test_a_prompt_that_ends_with_the_begin_tag_starts_inside_reasoning(prompt: str, inside: bool) -> None:
    assert starts_inside(prompt, THINK) is inside
