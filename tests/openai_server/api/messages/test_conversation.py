import json
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.messages.request import parse
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import (
    AnswerPart,
    AssistantMessage,
    ContentPart,
    FunctionCall,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)

HI = {"role": "user", "content": "hi"}
BILLING = "x-anthropic-billing-header: cc_version=2.1; cch=17b;"


def text(content: str) -> dict[str, Any]:
    return {"type": "text", "text": content}


def conversation(*messages: dict[str, Any], **fields: Any) -> list[Message]:
    body = {"messages": list(messages), "max_tokens": 1, **fields}
    return list(parse(json.dumps(body).encode(), Caps()).turn.messages)


def refusal(*messages: dict[str, Any], **fields: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        conversation(*messages, **fields)
    return caught.value


def use(id: str, **input: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": "f", "input": input}


def result(id: str, content: Any = None, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": id, "content": content, **fields}


# ---- System


def test_system_is_a_text_or_blocks() -> None:
    assert conversation(HI, system="a") == [SystemMessage("a"), UserMessage("hi")]
    assert conversation(HI, system=[text("a")]) == [SystemMessage("a"), UserMessage("hi")]
    assert conversation(HI, system=[text("a"), text("b")])[0] == SystemMessage([TextPart("a"), TextPart("b")])
    assert conversation(HI, system="") == conversation(HI, system=[]) == conversation(HI) == [UserMessage("hi")]


@pytest.mark.parametrize(
    ("system", "kept"),
    [
        ([text(BILLING), text("a")], SystemMessage("a")),
        ([text(BILLING + "\nmore"), text("a"), text("b")], SystemMessage([TextPart("a"), TextPart("b")])),
        (f"{BILLING}\na\nb", SystemMessage("a\nb")),
        ([text("a"), text(BILLING)], SystemMessage([TextPart("a"), TextPart(BILLING)])),
        (f"a\n{BILLING}", SystemMessage(f"a\n{BILLING}")),
    ],
)
def test_a_billing_block_at_the_beginning_is_dropped(system: Any, kept: Message) -> None:
    assert conversation(HI, system=system)[0] == kept


@pytest.mark.parametrize("system", [BILLING, [text(BILLING)]])
def test_a_system_prompt_that_is_only_a_billing_block_is_none(system: Any) -> None:
    assert conversation(HI, system=system) == [UserMessage("hi")]


def test_a_system_message_keeps_its_place() -> None:
    system = {"role": "system", "content": [text("b")]}
    answer = {"role": "assistant", "content": "yes"}
    assert conversation(HI, system, answer, HI, system="a") == [
        SystemMessage("a"),
        UserMessage("hi"),
        SystemMessage("b"),
        AssistantMessage("yes"),
        UserMessage("hi"),
    ]


def test_a_system_message_may_end_with_the_next_user_message() -> None:
    system = {"role": "system", "content": "b", "clear_at": "next_user_message"}
    assert SystemMessage("b") in conversation(HI, system)
    assert SystemMessage("b") not in conversation(HI, system, {"role": "assistant", "content": "yes"}, HI)
    assert SystemMessage("b") in conversation(HI, {**system, "clear_at": "never"}, HI)


# ---- Users and answers


def test_consecutive_messages_of_a_role_are_one() -> None:
    answers: list[Any] = [
        {"role": "assistant", "content": "a"},
        {"role": "assistant", "content": [text("b"), use("1")]},
    ]
    assert conversation(HI, {"role": "user", "content": [text("x"), text("y")]}, *answers, HI) == [
        UserMessage([TextPart("hi"), TextPart("x"), TextPart("y")]),
        AssistantMessage([AnswerPart("a"), AnswerPart("b")], tool_calls=[ToolCall("1", FunctionCall("f", "{}"))]),
        UserMessage("hi"),
    ]


def test_a_call_its_reasoning_and_its_result_stay_one_turn() -> None:
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    hidden = {"type": "redacted_thinking", "data": "x"}
    answer = {"role": "assistant", "content": [thinking, hidden, text("well"), use("1", city="Köln", n=[1, 2])]}
    results = {"role": "user", "content": [text("and now?"), result("1", [text("20"), text("°C")])]}
    assert conversation(HI, answer, results) == [
        UserMessage("hi"),
        AssistantMessage(
            "well",
            reasoning_content="hm",
            tool_calls=[ToolCall("1", FunctionCall("f", '{"city": "Köln", "n": [1, 2]}'))],
        ),
        ToolMessage("20\n°C", "1"),
        UserMessage("and now?"),
    ]


@pytest.mark.parametrize(
    ("fields", "content"),
    [
        ({"content": "a"}, "a"),
        ({"content": None}, ""),
        ({"content": []}, ""),
        ({"content": "a", "is_error": True}, "<error>\na\n</error>"),
        ({"content": [{"type": "tool_reference", "tool_name": "g"}]}, "g"),
        ({"content": [{"type": "unheard_of"}, text("a")]}, "a"),
    ],
)
def test_the_content_of_a_result(fields: dict[str, Any], content: str) -> None:
    request = {"role": "assistant", "content": [use("1")]}
    messages = conversation(HI, request, {"role": "user", "content": [{**result("1"), **fields}]})
    assert messages[-1] == ToolMessage(content, "1")


def test_documents_and_search_results_are_text_with_their_titles() -> None:
    blocks = [
        {
            "type": "document",
            "title": "T",
            "context": "C",
            "source": {"type": "text", "media_type": "text/plain", "data": "a"},
        },
        {"type": "document", "source": {"type": "content", "content": [text("b"), text("c")]}},
        {"type": "search_result", "title": "T", "source": "S", "content": [text("d")], "citations": {"enabled": True}},
    ]
    [message] = conversation({"role": "user", "content": blocks})
    assert isinstance(message.content, list)
    assert [part.text for part in message.content] == [
        "<document>\n<title>T</title>\n<context>C</context>\na\n</document>",
        "<document>\nb\nc\n</document>",
        "<search_result>\n<title>T</title>\n<source>S</source>\nd\n</search_result>",
    ]


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aaaa"}}


@pytest.mark.parametrize(
    ("block", "place"),
    [
        (IMAGE, ""),
        ({"type": "document", "source": {"type": "content", "content": [text("a"), IMAGE]}}, ".source.content[1]"),
        (result("1", [text("a"), IMAGE]), ".content[1]"),
    ],
)
def test_media_are_refused_by_their_place(block: dict[str, Any], place: str) -> None:
    error = refusal(HI, {"role": "user", "content": [text("x"), block]})
    assert (error.param, error.code) == (f"messages[1].content[1]{place}", "unsupported_parameter")


def test_blocks_of_server_tools_and_unknown_blocks_are_left_out() -> None:
    server: list[Any] = [
        {"type": "server_tool_use", "id": "1", "name": "web_search", "input": {"query": "x"}},
        {"type": "web_search_tool_result", "tool_use_id": "1", "content": []},
        {"type": "mcp_tool_use", "id": "2", "name": "g", "server_name": "s", "input": {}},
        {"type": "mcp_tool_result", "tool_use_id": "2", "is_error": False, "content": [text("found")]},
        {"type": "compaction", "content": "summary"},
        {"type": "unheard_of", "x": [1]},
        text("so"),
    ]
    answer = AssistantMessage([AnswerPart("found"), AnswerPart("summary"), AnswerPart("so")])
    assert conversation(HI, {"role": "assistant", "content": server}, HI)[1] == answer
    assert conversation(HI, {"role": "assistant", "content": server[:1]}, HI)[0].content == [
        TextPart("hi"),
        TextPart("hi"),
    ]


def test_results_follow_their_calls_whatever_comes_between() -> None:
    answer = {"role": "assistant", "content": [use("1"), use("2")]}
    system = {"role": "system", "content": "b"}
    first, second = ({"role": "user", "content": [result(id, "20"), text("go")]} for id in ("1", "2"))
    calls = AssistantMessage(tool_calls=[ToolCall(id, FunctionCall("f", "{}")) for id in ("1", "2")])
    results = [ToolMessage("20", "1"), ToolMessage("20", "2")]
    go: list[ContentPart] = [TextPart("go"), TextPart("go")]
    assert conversation(HI, answer, system, first, second) == [
        *(UserMessage("hi"), calls, *results),
        *(SystemMessage("b"), UserMessage(go)),
    ]
    assert conversation(HI, answer, HI, first, second, {"role": "assistant", "content": "a"}, second) == [
        *(UserMessage("hi"), calls, *results),
        *(UserMessage([TextPart("hi"), *go]), AssistantMessage("a"), ToolMessage("20", "2"), UserMessage("go")),
    ]


def test_a_growing_conversation_keeps_its_prefix() -> None:
    parts: list[Any] = [
        HI,
        {"role": "system", "content": "reminder"},
        {"role": "assistant", "content": [text("a"), use("1", x=1)]},
        {"role": "user", "content": [result("1", "r")]},
        {"role": "assistant", "content": "b"},
        HI,
    ]
    whole = conversation(*parts, system=[text(f"{BILLING} a"), text("s")])
    for n in (2, 4, 6):
        part = conversation(*parts[:n], system=[text(f"{BILLING} {n}"), text("s")])
        assert part == whole[: len(part)]


# ---- The last message


def test_an_answer_at_the_end_is_continued() -> None:
    body = {"messages": [HI, {"role": "assistant", "content": "The best is ("}], "max_tokens": 1}
    turn = parse(json.dumps(body).encode(), Caps()).turn
    assert turn.template.continue_final_message
    assert turn.messages[-1] == AssistantMessage("The best is (")
    assert parse(json.dumps({**body, "messages": [HI]}).encode(), Caps()).turn.template.continue_final_message is None


def test_an_answer_that_can_not_be_continued_is_refused() -> None:
    assert "toolu_7" in refusal(HI, {"role": "assistant", "content": [use("toolu_7")]}).message
    thinking = {"type": "thinking", "thinking": "hm", "signature": ""}
    assert refusal(HI, {"role": "assistant", "content": [thinking]}).param == "messages[1].content"


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "user", "content": []}], "messages"),
        ([{"role": "system", "content": ""}], "messages"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "tool", "content": "x"}], "messages[0].role"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": [use("1")]}], "messages[0].content[0]"),
        ([HI, {"role": "assistant", "content": [result("1")]}], "messages[1].content[0]"),
        ([{"role": "user", "content": [{"text": "x"}]}], "messages[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text"),
        ([{"role": "user", "content": ["x"]}], "messages[0].content[0]"),
        ([{"role": "user", "content": [{"type": 1}]}], "messages[0].content[0].type"),
        ([HI, {"role": "assistant", "content": [{**use("1"), "input": "x"}]}], "messages[1].content[0].input"),
    ],
)
def test_invalid_messages_are_refused(messages: list[Any], param: str) -> None:
    assert refusal(*messages).param == param


def test_inputs_of_calls_have_limits() -> None:
    deep: Any = 1
    for _ in range(201):
        deep = [deep]
    for input in ({"a": deep}, {"a": [0] * 65_536}):
        error = refusal(HI, {"role": "assistant", "content": [use("1", **input)]}, HI)
        assert (error.param, error.code) == ("messages[1].content[0].input", "array_above_max_length")
