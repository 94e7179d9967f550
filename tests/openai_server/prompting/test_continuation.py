"""Prompts that continue the last message; test_corpus.py compares more of them with transformers."""

from collections.abc import Sequence
from datetime import datetime

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import AnswerPart, AssistantMessage, FunctionCall, Message, ToolCall, UserMessage
from openai_server.prompting.template import CHATML, RenderOptions, Templates
from tests.openai_server.prompting import reference

NOW = datetime(2026, 3, 4)
TRIMMING = "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}end"


def continued(source: str, *messages: Message, add_generation_prompt: bool = False) -> str:
    options = RenderOptions(add_generation_prompt=add_generation_prompt, continue_final_message=True)
    templates = Templates(clock=lambda: 0.0, now=lambda: NOW, seconds=1, characters=10_000)
    return templates.render(source, messages, {}, options)


def rejection(source: str, *messages: Message, add_generation_prompt: bool = False) -> str:
    with pytest.raises(InvalidRequest) as caught:
        continued(source, *messages, add_generation_prompt=add_generation_prompt)
    assert caught.value.param == "continue_final_message"
    return caught.value.message


@pytest.mark.parametrize("source", [CHATML, TRIMMING])
@pytest.mark.parametrize("text", ["It is", "It is ", " It is\n", "", " ", "HERE", "a]b"])
def test_a_continued_prompt_is_that_of_transformers(source: str, text: str) -> None:
    expected = reference.render(
        source,
        [{"role": "user", "content": "hi"}, {"role": "assistant", "content": text}],
        NOW,
        continue_final_message=True,
    )
    assert continued(source, UserMessage("hi"), AssistantMessage(text)) == expected


def test_a_message_of_several_parts_can_be_continued() -> None:
    source = "{% for m in messages %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}"
    parts: Sequence[AnswerPart] = [AnswerPart("a"), AnswerPart("b")]
    assert continued(source, UserMessage("u"), AssistantMessage(list(parts))) == "<u><a><b"
    assert continued(TRIMMING, UserMessage("u"), AssistantMessage(list(parts))) == "[u][a\nb"


def test_a_message_that_cannot_be_continued_is_rejected() -> None:
    user = UserMessage("u")
    assert "set one of them to false" in rejection(CHATML, user, add_generation_prompt=True)
    call = ToolCall("1", FunctionCall("f", "{}"))
    assert "no content" in rejection(CHATML, user, AssistantMessage(tool_calls=[call]))
    assert "omits or changes" in rejection("{{ messages[0].content }}", user, AssistantMessage("a"))
    assert "omits or changes" in rejection(
        "{{ messages[-1].content | truncate(20) }}", user, AssistantMessage("a" * 30)
    )
    assert "omits or changes" in rejection("{{ messages[1].content | upper }}", user, AssistantMessage("a"))
    assert "omits or changes" in rejection("{{ messages[1].content | tojson }}", user, AssistantMessage('a "b"'))
