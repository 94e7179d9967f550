"""The grammar of an answer that must not call any tool, in every format."""

import pytest

from openai_server.parsing.reasoning import ReasoningTags
from tests.openai_server.parsing.answers import tool
from tests.openai_server.parsing.grammars import accepted
from tests.openai_server.parsing.tools.cases import FORMATS
from tests.openai_server.parsing.tools.examples import EXAMPLES

pytestmark = pytest.mark.slow

TOOLS = [tool("get_weather", {"city": {"type": "string"}}, "city"), tool("now", {})]
HEADERS = {"functionary-v3.2": "all\n", "harmony": "<|channel|>final<|message|>"}
TEXT = 'Hello <b>world</b> [1] (2) `{}` >> <| {"name": "x"}\n\n'
THOUGHTS = [None, ReasoningTags("<think>", "</think>"), ReasoningTags("[THINK]", "[/THINK]")]

each_format = pytest.mark.parametrize("name", EXAMPLES)


@each_format
@pytest.mark.parametrize("thoughts", THOUGHTS)
@pytest.mark.parametrize("thinking", [False, True])
def test_text_is_accepted_and_no_call_is(name: str, thoughts: ReasoningTags | None, thinking: bool) -> None:
    if thinking and thoughts is None:
        return
    grammar = FORMATS[name].text_grammar(TOOLS, thoughts=thoughts, thinking=thinking)
    before = ""
    if thoughts:
        before = f"{'' if thinking else thoughts.begin}Hm.{thoughts.end}"
    header = HEADERS.get(name, "")
    assert accepted(grammar, before + header + TEXT)
    assert not accepted(grammar, before + EXAMPLES[name].single)
    if name not in {"llama-json", "llama-pythonic", "functionary-v3.2", "harmony"}:
        assert not accepted(grammar, f"{before}Hello.\n{EXAMPLES[name].single}")
