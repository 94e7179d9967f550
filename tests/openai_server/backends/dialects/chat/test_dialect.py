"""Requests to a model that takes chats, and the models that are recognized as such."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from openai_server.access.caps import Caps
from openai_server.api.chat.request import parse as parse_chat
from openai_server.api.messages.request import parse as parse_messages
from openai_server.api.responses.request import parse as parse_responses
from openai_server.api.schemas import parse_completion
from openai_server.backends.dialects.base import Call, Dialect, Rpc, Target, UnusableModel
from openai_server.backends.dialects.chat.dialect import Chat
from openai_server.backends.dialects.choose import Dialects
from openai_server.backends.dialects.description import Description, ServerDescription
from openai_server.backends.dialects.mapping.load import parse
from openai_server.core.errors import InvalidRequest, OnlyChats, UnsupportedParameter
from openai_server.core.turn import Turn
from protos import contract
from tests.openai_server.backends.dialects.mapping.models import TRITON, tensors_of

OWN = ServerDescription("anyserve", frozenset(contract.EXTENSIONS))
ALL = "messages:BYTES body:BYTES input_items:BYTES"
MODEL = Description(
    model="m",
    server=TRITON,
    is_decoupled=False,
    inputs=tensors_of("messages:BYTES body:BYTES"),
    outputs=tensors_of("events:BYTES"),
)
USER = [{"role": "user", "content": "a"}]


def chat(**fields: Any) -> Turn:
    return parse_chat(json.dumps({"messages": USER, **fields}).encode(), Caps()).turn


def response(**fields: Any) -> Turn:
    return parse_responses(json.dumps({"input": "a", **fields}).encode(), Caps()).turn


def dialect_of(description: Description) -> Dialect:
    recognized = Dialects().of(description)
    assert recognized is not None
    return recognized.dialect


def call_of(description: Description, turn: Turn, *, streams: bool = False) -> Call:
    dialect = dialect_of(description)
    assert dialect.takes_messages
    assert dialect.answers_in_events
    [call] = dialect.calls(turn, (), Target("m", dialect.input_names, "id", "1"), {}, streams=streams)
    return call


def inputs_of(call: Call) -> dict[str, Any]:
    """The JSON of each input; checks that each is one text."""
    found = {}
    for tensor in call.request.inputs:
        assert tensor.datatype == "BYTES"
        [element] = tensor.contents.bytes_contents
        found[tensor.name] = json.loads(element)
    return found


# ---- Recognition


@pytest.mark.parametrize(
    "description",
    [
        MODEL,
        replace(MODEL, inputs=tensors_of("messages:BYTES")),
        replace(MODEL, inputs=tensors_of(f"{ALL} temperature:FP32"), required=frozenset({"messages", "body"})),
        *(replace(MODEL, outputs=tensors_of(f"{name}:BYTES other:INT32")) for name in ("text", "token", "events")),
        replace(MODEL, server=OWN, tasks=frozenset({"chat"})),
        replace(MODEL, server=OWN, tasks=frozenset({"responses", "embed"}), inputs=(), outputs=()),
        replace(MODEL, tasks=frozenset({"chat"}), outputs=()),
    ],
)
def test_models_that_take_chats_are_recognized(description: Description) -> None:
    assert dialect_of(description).name == "chat"


@pytest.mark.parametrize(
    "description",
    [
        replace(MODEL, inputs=tensors_of("messages:INT32")),
        replace(MODEL, inputs=tensors_of("body:BYTES")),
        replace(MODEL, outputs=tensors_of("outputs:BYTES")),
        replace(MODEL, inputs=tensors_of("messages:BYTES max_tokens:INT32"), required=frozenset({"max_tokens"})),
    ],
)
def test_other_models_are_not_recognized(description: Description) -> None:
    assert Dialects().of(description) is None


def test_a_mapping_file_with_messages_takes_precedence() -> None:
    file = parse({"models": ["m"], "messages": "messages", "outputs": {"text": "events"}}, "mine")
    recognized = Dialects(files=[file]).of(replace(MODEL, tasks=frozenset({"chat"})))
    assert recognized is not None
    assert recognized.dialect.name == "mine"


def test_the_option_names_the_dialect() -> None:
    description = replace(MODEL, outputs=tensors_of("out:BYTES"))
    recognized = Dialects({"m": "chat"}).of(description)
    assert recognized is not None
    assert recognized.dialect.name == "chat"
    assert "chat" in Dialects().names()
    with pytest.raises(UnusableModel, match="no input 'messages'"):
        Dialects({"m": "chat"}).of(replace(MODEL, inputs=tensors_of("prompt:BYTES")))
    with pytest.raises(UnusableModel, match="no input 'messages'"):
        Dialects().of(replace(MODEL, tasks=frozenset({"chat"}), inputs=tensors_of("prompt:BYTES")))


@pytest.mark.parametrize(
    ("inputs", "required", "tasks"),
    [
        ("messages:BYTES", (), "chat"),
        (ALL, (), "chat,responses"),
        (ALL, ("messages", "input_items"), "responses"),
    ],
)
def test_the_tasks_of_a_model_that_lists_none(inputs: str, required: Sequence[str], tasks: str) -> None:
    description = replace(MODEL, inputs=tensors_of(inputs), required=frozenset(required))
    assert dialect_of(description).parameters == {"tasks": tasks}


# ---- Calls


@pytest.mark.parametrize(
    ("server", "decoupled", "rpc", "streams"),
    [
        (TRITON, True, Rpc.STREAM, Rpc.STREAM),
        (TRITON, None, Rpc.STREAM, Rpc.STREAM),
        (TRITON, False, Rpc.UNARY, Rpc.STREAM),
        (ServerDescription("mlserver"), None, Rpc.UNARY, Rpc.UNARY),
        (ServerDescription("kserve"), None, Rpc.UNARY, Rpc.UNARY),
        (OWN, None, Rpc.UNARY, Rpc.STREAM),
    ],
)
def test_the_call_follows_from_the_server(
    server: ServerDescription, decoupled: bool | None, rpc: Rpc, streams: Rpc
) -> None:
    description = replace(MODEL, server=server, is_decoupled=decoupled, tasks=frozenset({"chat"}))
    for found, wanted in (
        (call_of(description, chat()), rpc),
        (call_of(description, chat(stream=True), streams=True), streams),
    ):
        assert found.rpc is wanted
        if rpc is streams:
            assert found.fallback is None
        else:
            assert found.fallback is not None
            assert {found.rpc, found.fallback().rpc} == {Rpc.UNARY, Rpc.STREAM}
    marks = contract.PARAM_EMPTY_FINAL in call_of(description, chat()).request.parameters
    assert marks == (server is TRITON and decoupled is not False)


def test_a_request() -> None:
    call = call_of(MODEL, chat(model="gpt", temperature=0.5, n=2), streams=True)
    assert (call.request.model_name, call.request.model_version, call.request.id, call.n) == ("m", "1", "id", 2)
    assert call.read_whole is None
    assert inputs_of(call) == {
        "messages": USER,
        "body": {"model": "gpt", "messages": USER, "stream": True, "temperature": 0.5, "n": 2},
    }


def test_a_request_without_a_model_has_the_name_of_the_one_that_answers() -> None:
    assert inputs_of(call_of(MODEL, chat()))["body"]["model"] == "m"


def test_tensors_have_the_rank_that_the_model_reports() -> None:
    batched = replace(MODEL, inputs=tensors_of("messages:BYTES body:BYTES", (-1, 1)))
    assert [list(tensor.shape) for tensor in call_of(batched, chat()).request.inputs] == [[1, 1], [1, 1]]


@pytest.mark.parametrize(
    ("tasks", "of_chat", "of_response"),
    [("chat", "chat", "chat"), ("responses", "responses", "responses"), ("chat,responses", "chat", "responses")],
)
def test_the_task_follows_from_the_api(tasks: str, of_chat: str, of_response: str) -> None:
    description = replace(MODEL, inputs=tensors_of(ALL), tasks=frozenset(tasks.split(",")))
    turns = [
        (chat(), of_chat),
        (parse_messages(json.dumps({"messages": USER, "max_tokens": 1}).encode(), Caps()).turn, of_chat),
        (response(), of_response),
    ]
    for turn, task in turns:
        call = call_of(description, turn)
        assert call.request.parameters[contract.PARAM_TASK].string_param == task
        items = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "a"}]}]
        assert inputs_of(call).get("input_items") == (items if task == "responses" else None)


def test_instructions_are_a_field_of_the_body_and_no_item() -> None:
    turn = response(instructions="Be brief.", input=[{"role": "system", "content": "s"}, USER[0]])
    both = replace(MODEL, inputs=tensors_of(ALL), tasks=frozenset({"chat", "responses"}))
    sent = inputs_of(call_of(both, turn))
    assert sent["body"]["instructions"] == "Be brief."
    assert [item["role"] for item in sent["input_items"]] == ["system", "user"]
    assert sent["messages"] == sent["body"]["messages"]
    assert [message["content"] for message in sent["messages"]] == ["Be brief.", "s", "a"]
    only_chat = inputs_of(call_of(MODEL, turn))
    assert "instructions" not in only_chat["body"]
    assert only_chat["messages"] == sent["messages"]


def test_a_model_that_generates_too_gets_prompts() -> None:
    inputs = "messages:BYTES body:BYTES prompt:BYTES temperature:FP32"
    both = replace(MODEL, inputs=tensors_of(inputs), tasks=frozenset({"chat", "generate"}))
    dialect = dialect_of(both)
    turn = parse_completion(b'{"prompt": ["a", "b"], "temperature": 0.5}').turn()
    calls = list(dialect.calls(turn, turn.prompts, Target("m", dialect.input_names, "id"), {}, streams=False))
    assert [[tensor.name for tensor in call.request.inputs] for call in calls] == [["prompt", "temperature"]] * 2
    assert all(call.read_whole is not None for call in calls)
    assert dialect.fields(turn)["prompt"] == "prompt"
    assert inputs_of(call_of(both, chat(temperature=0.5)))["body"]["temperature"] == 0.5
    assert dialect.explain().inputs.keys() == {"messages", "body", "prompt", "temperature"}
    assert dialect_of(replace(both, server=OWN, inputs=tensors_of("prompt:BYTES"))).name == "anyserve"


# ---- Refusals


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("logprobs", {"logprobs": True}),
        ("logprobs", {"logprobs": True, "top_logprobs": 2}),
        ("timings_per_token", {"timings_per_token": True}),
        ("return_progress", {"return_progress": True, "stream": True}),
    ],
)
def test_fields_that_the_answer_could_not_express_are_refused(field: str, fields: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedParameter) as caught:
        call_of(MODEL, chat(**fields))
    assert caught.value.param == field
    assert call_of(MODEL, chat(logprobs=False, timings_per_token=False))


def test_a_prompt_is_refused_with_the_endpoints_for_chats() -> None:
    for body in ({"prompt": "a"}, {"prompt": [1, 2]}, {"prompt": "a", "echo": True, "suffix": "b"}):
        with pytest.raises(OnlyChats) as caught:
            call_of(MODEL, parse_completion(json.dumps(body).encode()).turn())
        assert (caught.value.param, caught.value.code) == ("prompt", "unsupported_task")
        assert "/v1/chat/completions" in caught.value.message


FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("temperature", {"temperature": 0.5}),
        ("max_completion_tokens", {"max_completion_tokens": 5}),
        ("stop", {"stop": "a"}),
        ("n", {"n": 2}),
        ("tools", {"tools": [FUNCTION]}),
        ("functions", {"functions": [FUNCTION["function"]]}),
        ("reasoning_effort", {"reasoning_effort": "low"}),
        ("enable_thinking", {"enable_thinking": False}),
        ("thinking_token_budget", {"thinking_token_budget": 5}),
        ("regex", {"regex": "a"}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("structured_outputs.choice", {"structured_outputs": {"choice": ["a"]}}),
    ],
)
def test_without_a_body_fields_are_refused_that_have_no_place(field: str, fields: dict[str, Any]) -> None:
    plain = replace(MODEL, inputs=tensors_of("messages:BYTES"))
    with pytest.raises(InvalidRequest) as caught:
        call_of(plain, chat(**fields))
    assert caught.value.param == field
    assert inputs_of(call_of(MODEL, chat(**fields))).keys() == {"messages", "body"}


def test_without_a_body_values_that_change_nothing_are_accepted() -> None:
    plain = replace(MODEL, inputs=tensors_of("messages:BYTES"))
    turns = [
        chat(temperature=1, n=1, top_p=1, user="u", metadata={"a": "b"}, tools=[FUNCTION], tool_choice="none"),
        response(reasoning={"effort": "low"}),
    ]
    for turn in turns:
        assert inputs_of(call_of(plain, turn)) == {"messages": USER}


# ---- For people


def test_the_explanation() -> None:
    explanation = Chat(replace(MODEL, inputs=tensors_of(ALL))).explain()
    assert explanation.inputs.keys() == {"messages", "body", "input_items"}
    assert explanation.refused == ["prompts", "logprobs"]
    assert Chat(replace(MODEL, inputs=tensors_of("messages:BYTES"))).explain().refused != explanation.refused
