"""Input items become the messages of a turn."""

import json
import pickle
from typing import Any

import pytest

from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import (
    AnswerPart,
    AssistantMessage,
    CustomCall,
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
from tests.openai_server.api.responses.bodies import (
    Json,
    assistant,
    call,
    function,
    messages,
    namespace,
    parsed,
    reasoning,
    rejection,
    result,
    user,
)

CALL = ToolCall("call_1", FunctionCall("f", "{}"))
SECOND_CALL = ToolCall("call_2", FunctionCall("f", "{}"))


def test_a_text_is_a_user_message() -> None:
    turn = parsed(input="hello").turn
    assert list(turn.messages) == [UserMessage("hello")]
    assert turn.message_fields == ["input"]


def test_instructions_are_the_first_system_message() -> None:
    turn = parsed(input=[user()], instructions="Be brief.").turn
    assert list(turn.messages) == [SystemMessage("Be brief."), UserMessage("x")]
    assert turn.message_fields == ["instructions", "input[0]"]


@pytest.mark.parametrize(
    ("role", "message"),
    [
        ("user", UserMessage("a")),
        ("system", SystemMessage("a")),
        ("developer", DeveloperMessage("a")),
        ("assistant", AssistantMessage("a")),
    ],
)
@pytest.mark.parametrize("type", [{}, {"type": "message"}, {"type": None}])
@pytest.mark.parametrize("content", ["a", [{"type": "input_text", "text": "a"}], [{"type": "text", "text": "a"}]])
def test_messages_of_every_role(role: str, message: Message, type: Json, content: Any) -> None:
    assert messages({"role": role, "content": content, "id": "msg_1", "phase": None, **type}) == [message]


def test_parts_remain_parts() -> None:
    parts = [{"type": "input_text", "text": text, "prompt_cache_breakpoint": {"mode": "explicit"}} for text in "ab"]
    assert messages({"role": "user", "content": parts}) == [UserMessage([TextPart("a"), TextPart("b")])]


def test_the_parts_of_an_answer() -> None:
    refusal = {"type": "refusal", "refusal": "no"}
    [message] = messages(assistant("a") | {"content": [*assistant("a")["content"], refusal], "phase": "final_answer"})
    assert message == AssistantMessage([AnswerPart("a"), AnswerPart("no")])


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        # reasoning belongs to the message that follows
        ([reasoning("r"), assistant("a")], [AssistantMessage("a", reasoning_content="r")]),
        ([reasoning(summary="s"), assistant("a")], [AssistantMessage("a", reasoning_content="s")]),
        ([reasoning("r", summary="s"), call()], [AssistantMessage(tool_calls=[CALL], reasoning_content="r")]),
        ([reasoning(), assistant("a")], [AssistantMessage("a")]),
        ([reasoning("r"), user()], [AssistantMessage(reasoning_content="r"), UserMessage("x")]),
        ([reasoning("r"), reasoning("s"), assistant("a")], [AssistantMessage("a", reasoning_content="r\ns")]),
        # texts and calls of one turn are one message
        (
            [assistant("a", phase="commentary"), call(), call("call_2")],
            [AssistantMessage("a", tool_calls=[CALL, SECOND_CALL])],
        ),
        (
            [call(), assistant("a"), result()],
            [AssistantMessage("a", tool_calls=[CALL]), ToolMessage("done", "call_1")],
        ),
        (
            [assistant("a", phase="commentary"), assistant("b", phase="final_answer")],
            [AssistantMessage([AnswerPart("a"), AnswerPart("b")])],
        ),
        # parallel and successive calls
        (
            [call(), call("call_2"), result("call_2"), result()],
            [
                AssistantMessage(tool_calls=[CALL, SECOND_CALL]),
                ToolMessage("done", "call_2"),
                ToolMessage("done", "call_1"),
            ],
        ),
        (
            [call(), result(), reasoning("r"), call("call_2"), result("call_2"), assistant("a")],
            [
                AssistantMessage(tool_calls=[CALL]),
                ToolMessage("done", "call_1"),
                AssistantMessage(tool_calls=[SECOND_CALL], reasoning_content="r"),
                ToolMessage("done", "call_2"),
                AssistantMessage("a"),
            ],
        ),
        # a message between a call and its result follows the result
        (
            [call(), user("b"), result(), assistant("a")],
            [
                AssistantMessage(tool_calls=[CALL]),
                ToolMessage("done", "call_1"),
                UserMessage("b"),
                AssistantMessage("a"),
            ],
        ),
        (
            [call(), call("call_2"), result(), user("b"), result("call_2")],
            [
                AssistantMessage(tool_calls=[CALL, SECOND_CALL]),
                ToolMessage("done", "call_1"),
                ToolMessage("done", "call_2"),
                UserMessage("b"),
            ],
        ),
        # but not if there is no result, or another answer comes first
        ([call(), user("b")], [AssistantMessage(tool_calls=[CALL]), UserMessage("b")]),
        (
            [call(), user("b"), assistant("a"), result()],
            [
                AssistantMessage(tool_calls=[CALL]),
                UserMessage("b"),
                AssistantMessage("a"),
                ToolMessage("done", "call_1"),
            ],
        ),
        # clients may use an id twice
        (
            [call(), result(), user("b"), call(), result()],
            [
                *(AssistantMessage(tool_calls=[CALL]), ToolMessage("done", "call_1")),
                UserMessage("b"),
                *(AssistantMessage(tool_calls=[CALL]), ToolMessage("done", "call_1")),
            ],
        ),
        ([result("call_9")], [ToolMessage("done", "call_9")]),
        ([result(output=[{"type": "input_text", "text": "t"}])], [ToolMessage("t", "call_1")]),
        ([result(output=[])], [ToolMessage("", "call_1")]),
    ],
)
def test_an_answer_is_one_message(items: list[Json], expected: list[Message]) -> None:
    assert messages(*items) == expected


def test_the_path_of_each_message() -> None:
    turn = parsed(input=[user(), reasoning("r"), call(), user(), result(), assistant("a")]).turn
    assert turn.message_fields == ["input[0]", "input[1]", "input[4]", "input[3]", "input[5]"]


def test_custom_calls() -> None:
    items = [
        {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "name": "patch", "input": "a\nb"},
        {"type": "custom_tool_call_output", "call_id": "call_1", "output": "ok"},
    ]
    assert messages(*items) == [
        AssistantMessage(tool_calls=[CustomToolCall("call_1", CustomCall("patch", "a\nb"))]),
        ToolMessage("ok", "call_1"),
    ]


@pytest.mark.parametrize(
    ("call_name", "flat"),
    [
        ({"name": "find", "namespace": "crm"}, "crm__find"),
        ({"name": "find"}, "crm__find"),  # the only tool of this name
        ({"name": "other", "namespace": "crm"}, "crm__other"),  # not in the request any more
        ({"name": "other"}, "other"),
    ],
)
def test_calls_have_the_flat_names_of_the_tools(call_name: Json, flat: str) -> None:
    [message] = messages(call() | call_name, tools=[namespace("crm", function("find"))])
    assert isinstance(message, AssistantMessage)
    assert message.tool_calls == [ToolCall("call_1", FunctionCall(flat, "{}"))]


# ---- Items of other servers


SHOWN: list[tuple[list[Json], list[tuple[str, Any]], list[str]]] = [
    (
        [{"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "roll", "arguments": "{}", "output": "4"}],
        [("roll", {})],
        ["4"],
    ),
    ([{"type": "mcp_call", "name": "roll", "error": {"code": 1}}], [("roll", {})], ['{"code":1}']),
    ([{"type": "mcp_call", "name": "roll"}], [("roll", {})], []),
    ([{"type": "file_search_call", "queries": ["q"]}], [], []),
    (
        [{"type": "file_search_call", "queries": ["q"], "results": [{"text": "t"}]}],
        [("file_search", {"queries": ["q"]})],
        ['[{"text":"t"}]'],
    ),
    (
        [
            {
                "type": "code_interpreter_call",
                "code": "1+1",
                "outputs": [{"type": "logs", "logs": "2"}, {"type": "image"}],
            }
        ],
        [("code_interpreter", {"code": "1+1"})],
        ["2"],
    ),
    (
        [
            {"type": "local_shell_call", "call_id": "c", "action": {"type": "exec", "command": ["ls"]}},
            {"type": "local_shell_call_output", "id": "c", "output": "a.txt"},
        ],
        [("local_shell", {"type": "exec", "command": ["ls"]})],
        ["a.txt"],
    ),
    (
        [
            {"type": "shell_call", "call_id": "c", "action": {"commands": ["ls"]}},
            {"type": "shell_call_output", "call_id": "c", "output": [{"stdout": "a.txt"}]},
        ],
        [("shell", {"commands": ["ls"]})],
        ['[{"stdout":"a.txt"}]'],
    ),
    (
        [
            {"type": "apply_patch_call", "call_id": "c", "operation": {"type": "delete_file", "path": "a"}},
            {"type": "apply_patch_call_output", "call_id": "c", "status": "completed"},
        ],
        [("apply_patch", {"type": "delete_file", "path": "a"})],
        ["completed"],
    ),
    (
        [
            {"type": "program", "call_id": "c", "code": "f()", "fingerprint": "x", "new_key": 1},
            {"type": "program_output", "call_id": "c", "result": "1"},
        ],
        [("program", {"code": "f()"})],
        ["1"],
    ),
    ([{"type": "web_search_call", "action": {"type": "search"}}], [], []),
    ([{"type": "computer_call", "action": {}}, {"type": "computer_call_output", "output": {}}], [], []),
    ([{"type": "image_generation_call", "result": "…"}], [], []),
    ([{"type": "mcp_list_tools", "tools": []}], [], []),
    ([{"type": "mcp_approval_request"}, {"type": "mcp_approval_response"}], [], []),
    ([{"type": "tool_search_call", "arguments": {}, "execution": "client"}], [], []),
]


@pytest.mark.parametrize(("items", "calls", "results"), SHOWN)
def test_items_of_other_servers_are_shown_or_skipped(
    items: list[Json], calls: list[tuple[str, Any]], results: list[str]
) -> None:
    found = messages(user(), *items)
    assert found[0] == UserMessage("x")
    shown = [c.function for m in found if isinstance(m, AssistantMessage) for c in m.tool_calls or ()]
    assert [(function.name, json.loads(function.arguments)) for function in shown] == calls
    outputs = [message for message in found if isinstance(message, ToolMessage)]
    assert [message.content for message in outputs] == results
    ids = [c.id for m in found if isinstance(m, AssistantMessage) for c in m.tool_calls or () if c.id]
    assert [message.tool_call_id for message in outputs] == ids[: len(outputs)]


@pytest.mark.parametrize("kind", sorted({item["type"] for items, _, _ in SHOWN for item in items}))
@pytest.mark.parametrize("value", [None, 1, "a", [1], {"a": [None]}, [{"logs": 1}]])
def test_items_of_other_servers_are_never_refused(kind: str, value: Any) -> None:
    keys = ("id", "call_id", "name", "arguments", "action", "operation", "output", "outputs", "result", "results")
    assert messages(user(), {"type": kind, **dict.fromkeys((*keys, "code", "queries", "error", "status", "x"), value)})


def test_a_value_that_nests_too_deeply_is_refused() -> None:
    value: Any = "x"
    for _ in range(260):
        value = [value]
    error = rejection("input[0]", input=[{"type": "shell_call", "action": {"commands": value}}])
    assert error.code == "array_above_max_length"


# ---- Sealed items


def test_sealed_reasoning_is_filled_in() -> None:
    request = parsed(input=[user(), reasoning("plain", "s1"), reasoning(None, "s2"), reasoning("p"), call(), result()])
    assert [(item.kind, item.text, item.field) for item in request.sealed_items] == [
        ("reasoning", "s1", "input[1].encrypted_content"),
        ("reasoning", "s2", "input[2].encrypted_content"),
    ]
    opened = request.with_opened(["a", "b"])
    assert opened.turn.messages[1] == AssistantMessage(tool_calls=[CALL], reasoning_content="a\nb\np")
    assert not opened.sealed_items
    assert request.turn.messages[1] == AssistantMessage(tool_calls=[CALL], reasoning_content="plain\np")


def test_plain_reasoning_counts_if_the_sealed_one_can_not_be_opened() -> None:
    request = parsed(input=[user(), reasoning("plain", "s1"), assistant("a")])
    assert request.with_opened([None]).turn.messages[1] == AssistantMessage("a", reasoning_content="plain")


@pytest.mark.parametrize("item", [reasoning(None, "s"), reasoning(None, "s", summary="of it")])
def test_reasoning_that_can_not_be_opened_is_an_error(item: Json) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parsed(input=[user(), item]).with_opened([None])
    assert raised.value.code == "invalid_encrypted_content"
    assert raised.value.param == "input[1].encrypted_content"


def test_a_compaction_is_a_message_with_its_text() -> None:
    request = parsed(input=[user(), {"type": "compaction", "id": "cmp_1", "encrypted_content": "s"}, user("b")])
    [item] = request.sealed_items
    assert (item.kind, item.message) == ("compaction", 1)
    opened = request.with_opened(["They agreed."])
    assert [message.content for message in opened.turn.messages] == [
        "x",
        "Summary of the earlier conversation:\n\nThey agreed.",
        "b",
    ]
    with pytest.raises(InvalidRequest) as raised:
        request.with_opened([None])
    assert raised.value.code == "invalid_encrypted_content"


def test_a_request_can_be_sent_to_another_process() -> None:
    request = parsed(input=[user(), reasoning("r", "s"), call(), result()], tools=[function()], metadata={"a": "b"})
    assert pickle.loads(pickle.dumps(request)) == request


# ---- Other items


def test_a_compaction_trigger_must_be_the_last_item() -> None:
    trigger = {"type": "compaction_trigger"}
    assert parsed(input=[user(), trigger]).compacts
    assert not parsed(input=[user()]).compacts
    rejection("input[0]", input=[trigger, user()])


def test_a_configuration_update_replaces_settings() -> None:
    low = {"type": "configuration_update", "reasoning": {"effort": "low"}}
    schema = {"type": "json_schema", "name": "a", "schema": {"type": "object"}}
    request = parsed(
        input=[user(), {"type": "configuration_update", "text": {"format": schema}}, user(), low],
        reasoning={"effort": "high", "summary": "auto"},
    )
    assert request.turn.template.reasoning_effort == "low"
    assert request.turn.name("reasoning_effort") == "input[3].reasoning.effort"
    assert request.turn.guide.field == "input[1].text.format"
    assert request.settings.reasoning == {"effort": "low", "summary": "auto"}
    assert request.settings.text["format"]["name"] == "a"
    text = {"type": "configuration_update", "text": {"format": {"type": "text"}}}
    assert not parsed(input=[user(), text], text={"format": {"type": "json_object"}}).turn.guide


def test_a_null_in_a_configuration_update_replaces_nothing() -> None:
    null = {"type": "configuration_update", "reasoning": {"effort": None}, "text": {"format": None}}
    request = parsed(input=[user(), null], reasoning={"effort": "high"}, text={"format": {"type": "json_object"}})
    assert request.turn.template.reasoning_effort == "high"
    assert request.turn.name("reasoning_effort") == "reasoning.effort"
    assert request.settings.reasoning["effort"] == "high"
    assert request.turn.guide.field == "text.format"


@pytest.mark.parametrize("kind", ["additional_tools", "tool_search_output"])
def test_items_can_add_tools(kind: str) -> None:
    item = {"type": kind, "role": "developer", "tools": [function("g"), function("f", description="new")]}
    if kind == "tool_search_output":
        item |= {"call_id": "c", "execution": "server"}
        del item["role"]
    turn = parsed(input=[user(), item], tools=[function("f")]).turn
    assert [(tool.name, tool.function.description) for tool in turn.tools] == [("f", "new"), ("g", None)]
    assert turn.tool_fields == ["input[1].tools[1]", "input[1].tools[0]"]
    assert turn.tool_use is not None
    assert turn.tool_field(1) == "input[1].tools[0].parameters"


@pytest.mark.parametrize("item", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}])
def test_a_reference_has_its_place_in_the_request(item: Json) -> None:
    request = parsed(input=[user(), item])
    assert request.use.references == {"msg_1": "input[1]"}
    assert request.turn.messages == parsed(input=[user()]).turn.messages


@pytest.mark.parametrize("part", ["input_image", "input_audio"])
@pytest.mark.parametrize("where", [{"role": "user"}, {"type": "function_call_output", "call_id": "c"}])
def test_media_are_refused(part: str, where: Json) -> None:
    key = "output" if "type" in where else "content"
    parts = [{"type": "input_text", "text": "a"}, {"type": part, "image_url": "data:…"}]
    error = rejection(f"input[0].{key}[1]", input=[{**where, key: parts}])
    assert part in error.message
    assert error.code == "unsupported_parameter"


@pytest.mark.parametrize(
    ("items", "param"),
    [
        ([], "input"),
        ([reasoning()], "input"),
        ([{"type": "web_search_call"}], "input"),
        ([{}], "input[0].type"),
        ([1], "input[0]"),
        ([{"type": "x"}], "input[0].type"),
        ([{"role": "tool", "content": "a"}], "input[0].role"),
        ([{"role": "user"}], "input[0].content"),
        ([{"role": "user", "content": "a", "foo": 1}], "input[0].foo"),
        ([{"role": "user", "content": [{"type": "x"}]}], "input[0].content[0].type"),
        ([{"role": "user", "content": [{"type": "input_text"}]}], "input[0].content[0].text"),
        ([{"role": "assistant", "content": "a", "phase": "x"}], "input[0].phase"),
        ([{"type": "function_call", "name": "f", "arguments": "{}"}], "input[0].call_id"),
        ([call(arguments=None)], "input[0].arguments"),
        ([result(output=None)], "input[0].output"),
        ([call(arguments="[" + "1," * 70_000 + "1]")], "input[0].arguments"),
        ([user()] * 8193, "input"),
        ([{"role": "user", "content": [{"type": "input_text", "text": "abcdefgh"}] * 8193}], "input[0].content"),
        ([{"type": "compaction"}], "input[0].encrypted_content"),
        ([{"type": "additional_tools", "tools": [function()] * 513}], "input[0].tools"),
    ],
)
def test_invalid_items_are_refused(items: list[Any], param: str) -> None:
    rejection(param, input=items)
