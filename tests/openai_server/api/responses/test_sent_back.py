"""Whatever a response contains can be sent back as input, with its nulls."""

from typing import Any

import pytest
from openai.types.responses import (
    ResponseCompactionItem,
    ResponseCustomToolCall,
    ResponseFunctionToolCall,
    ResponseOutputMessage,
    ResponseReasoningItem,
)
from openai.types.responses.response_output_refusal import ResponseOutputRefusal
from openai.types.responses.response_output_text import Logprob, LogprobTopLogprob, ResponseOutputText
from openai.types.responses.response_reasoning_item import Content, Summary
from pydantic import BaseModel

from openai_server.core.messages import AnswerPart, AssistantMessage, CustomCall, CustomToolCall, FunctionCall, ToolCall
from tests.openai_server.api.responses.bodies import parsed

TOP = LogprobTopLogprob(token="a", bytes=[97], logprob=-0.1)
TEXT = ResponseOutputText(
    type="output_text",
    text="a",
    annotations=[],
    logprobs=[Logprob(token="a", bytes=[97], logprob=-0.1, top_logprobs=[TOP])],
)
OUTPUT: list[BaseModel] = [
    ResponseReasoningItem(
        type="reasoning",
        id="rs_1",
        summary=[Summary(type="summary_text", text="s")],
        content=[Content(type="reasoning_text", text="hm")],
        encrypted_content="sealed",
        status="completed",
    ),
    ResponseOutputMessage(
        type="message", id="msg_1", role="assistant", status="completed", content=[TEXT], phase="commentary"
    ),
    ResponseOutputMessage(
        type="message",
        id="msg_2",
        role="assistant",
        status="incomplete",
        content=[ResponseOutputRefusal(type="refusal", refusal="no")],
    ),
    ResponseFunctionToolCall(
        type="function_call", id="fc_1", call_id="call_1", name="f", namespace="n", arguments="{}", status="completed"
    ),
    ResponseCustomToolCall(type="custom_tool_call", id="ctc_1", call_id="call_2", name="c", input="a\nb"),
    ResponseCompactionItem(type="compaction", id="cmp_1", encrypted_content="sealed"),
]


@pytest.mark.parametrize("options", [{}, {"exclude_unset": True}, {"exclude_none": True}])
def test_every_item_can_be_sent_back(options: dict[str, Any]) -> None:
    request = parsed(input=[item.model_dump(**options) for item in OUTPUT])
    opened = request.with_opened(["opened", "earlier"])
    calls: list[ToolCall | CustomToolCall] = [
        ToolCall("call_1", FunctionCall("n__f", "{}")),
        CustomToolCall("call_2", CustomCall("c", "a\nb")),
    ]
    [answer, summary] = opened.turn.messages
    assert answer == AssistantMessage([AnswerPart("a"), AnswerPart("no")], tool_calls=calls, reasoning_content="opened")
    assert str(summary.content).endswith("earlier")


@pytest.mark.parametrize("item", OUTPUT, ids=lambda item: item.type)
def test_every_item_can_be_sent_alone(item: BaseModel) -> None:
    assert parsed(input=[item.model_dump(), {"role": "user", "content": "x"}]).turn.messages


def test_the_settings_of_a_response_can_be_sent_again() -> None:
    body: dict[str, Any] = {
        "instructions": "Be brief.",
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}, "strict": True}],
        "tool_choice": {"type": "allowed_tools", "tools": [{"type": "function", "name": "f"}]},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}, "verbosity": "low"},
        "reasoning": {"effort": "low"},
        "metadata": {"a": "b"},
        "max_output_tokens": 5,
    }
    first = parsed(**body)
    names = first.settings.__struct_fields__
    again = parsed(**{name: getattr(first.settings, name) for name in names})
    assert again.settings == first.settings
    assert (again.turn.tools, again.turn.tool_use) == (first.turn.tools, first.turn.tool_use)
