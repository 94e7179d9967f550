import json
from collections.abc import Mapping
from typing import Any, get_args, get_type_hints

import msgspec
import pytest
from openai.types import completion_create_params
from openai.types.chat import (
    ChatCompletionAllowedToolChoiceParam,
    ChatCompletionAllowedToolsParam,
    ChatCompletionAssistantMessageParam,
    ChatCompletionAudio,
    ChatCompletionContentPartRefusalParam,
    ChatCompletionContentPartTextParam,
    ChatCompletionDeveloperMessageParam,
    ChatCompletionFunctionMessageParam,
    ChatCompletionFunctionToolParam,
    ChatCompletionMessage,
    ChatCompletionMessageCustomToolCall,
    ChatCompletionMessageCustomToolCallParam,
    ChatCompletionMessageFunctionToolCallParam,
    ChatCompletionMessageParam,
    ChatCompletionNamedToolChoiceParam,
    ChatCompletionStoreMessage,
    ChatCompletionStreamOptionsParam,
    ChatCompletionSystemMessageParam,
    ChatCompletionToolMessageParam,
    ChatCompletionUserMessageParam,
    ParsedChatCompletionMessage,
    ParsedFunction,
    ParsedFunctionToolCall,
)
from openai.types.chat import completion_create_params as chat_create_params
from openai.types.chat.chat_completion_chunk import ChoiceDelta, ChoiceDeltaToolCall
from openai.types.chat.chat_completion_custom_tool_param import (
    ChatCompletionCustomToolParam,
    CustomFormatGrammar,
    CustomFormatGrammarGrammar,
    CustomFormatText,
)
from openai.types.chat.chat_completion_custom_tool_param import Custom as CustomDefinition
from openai.types.chat.chat_completion_message_custom_tool_call import Custom as AnsweredCustom
from openai.types.chat.chat_completion_message_custom_tool_call_param import Custom
from openai.types.chat.chat_completion_message_function_tool_call_param import Function
from openai.types.chat.chat_completion_named_tool_choice_custom_param import ChatCompletionNamedToolChoiceCustomParam
from openai.types.responses import ResponseInputText, ResponseOutputRefusal, ResponseOutputText
from openai.types.shared_params import (
    FunctionDefinition,
    ResponseFormatJSONObject,
    ResponseFormatJSONSchema,
    ResponseFormatText,
)
from openai.types.shared_params.response_format_json_schema import JSONSchema
from pydantic import BaseModel

from openai_server.api import schemas, schemas_tasks
from openai_server.api.messages.schema import CountTokensRequest, MessagesRequest
from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.schemas import (
    ChatRequest,
    CompletionRequest,
    Fields,
    Request,
    bounds,
    parse_chat,
    parse_completion,
)
from openai_server.api.schemas_tasks import EmbeddingRequest, RerankRequest, TokenizeRequest
from openai_server.backends.dialects import inputs
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import AssistantMessage, FunctionCall, ToolMessage, UserMessage
from openai_server.core.tools import CustomFormat, ToolUse
from openai_server.core.turn import NO_GUIDE, Guide, Sampling
from protos import contract

# ---- Every field of the API has a place

API = [
    (completion_create_params.CompletionCreateParamsNonStreaming, schemas.COMPLETION_FIELDS),
    (completion_create_params.CompletionCreateParamsStreaming, schemas.COMPLETION_FIELDS),
    (chat_create_params.CompletionCreateParamsNonStreaming, schemas.CHAT_FIELDS),
    (chat_create_params.CompletionCreateParamsStreaming, schemas.CHAT_FIELDS),
    (ChatCompletionStreamOptionsParam, schemas.STREAM_OPTIONS_FIELDS),
    (ChatCompletionSystemMessageParam, schemas.MESSAGE_FIELDS["system"]),
    (ChatCompletionDeveloperMessageParam, schemas.MESSAGE_FIELDS["developer"]),
    (ChatCompletionUserMessageParam, schemas.MESSAGE_FIELDS["user"]),
    (ChatCompletionAssistantMessageParam, schemas.MESSAGE_FIELDS["assistant"]),
    (ChatCompletionToolMessageParam, schemas.MESSAGE_FIELDS["tool"]),
    (ChatCompletionFunctionMessageParam, schemas.MESSAGE_FIELDS["function"]),
    (ChatCompletionContentPartTextParam, schemas.PART_FIELDS["text"]),
    (ChatCompletionContentPartTextParam, schemas.ANSWER_PART_FIELDS["text"]),
    (ChatCompletionContentPartRefusalParam, schemas.ANSWER_PART_FIELDS["refusal"]),
    (ChatCompletionMessageFunctionToolCallParam, schemas.TOOL_CALL_FIELDS),
    (ChatCompletionMessageCustomToolCallParam, schemas.CUSTOM_TOOL_CALL_FIELDS),
    (Function, schemas.FUNCTION_CALL_FIELDS),
    (Custom, schemas.CUSTOM_CALL_FIELDS),
    (ChatCompletionFunctionToolParam, schemas.TOOL_FIELDS),
    (ChatCompletionCustomToolParam, schemas.CUSTOM_TOOL_FIELDS),
    (CustomDefinition, schemas.CUSTOM_FIELDS),
    (CustomFormatText, schemas.CUSTOM_FORMAT_FIELDS["text"]),
    (CustomFormatGrammar, schemas.CUSTOM_FORMAT_FIELDS["grammar"]),
    (CustomFormatGrammarGrammar, schemas.GRAMMAR_DEFINITION_FIELDS),
    (FunctionDefinition, schemas.FUNCTION_FIELDS),
    (chat_create_params.Function, schemas.FUNCTION_FIELDS),
    (ChatCompletionNamedToolChoiceParam, schemas.TOOL_CHOICE_FIELDS["function"]),
    (ChatCompletionNamedToolChoiceCustomParam, schemas.TOOL_CHOICE_FIELDS["custom"]),
    (ChatCompletionAllowedToolChoiceParam, schemas.TOOL_CHOICE_FIELDS["allowed_tools"]),
    (ChatCompletionAllowedToolsParam, schemas.ALLOWED_TOOLS_FIELDS),
    (ResponseFormatText, schemas.RESPONSE_FORMAT_FIELDS["text"]),
    (ResponseFormatJSONObject, schemas.RESPONSE_FORMAT_FIELDS["json_object"]),
    (ResponseFormatJSONSchema, schemas.RESPONSE_FORMAT_FIELDS["json_schema"]),
    (JSONSchema, schemas.NAMED_SCHEMA_FIELDS),
    # parts of answers can be sent back
    (ChatCompletionStoreMessage, schemas.MESSAGE_FIELDS["assistant"]),
    (ParsedChatCompletionMessage, schemas.MESSAGE_FIELDS["assistant"]),
    (ChoiceDelta, schemas.MESSAGE_FIELDS["assistant"]),
    (ChatCompletionMessage, schemas.ANSWER_PART_FIELDS["text"]),  # @openai/agents
    (ChatCompletionMessage, schemas.ANSWER_PART_FIELDS["refusal"]),
    (ChatCompletionAudio, schemas.AUDIO_FIELDS),
    (ParsedFunctionToolCall, schemas.TOOL_CALL_FIELDS),
    (ChoiceDeltaToolCall, schemas.TOOL_CALL_FIELDS),
    (ParsedFunction, schemas.FUNCTION_CALL_FIELDS),
    (ChatCompletionMessageCustomToolCall, schemas.CUSTOM_TOOL_CALL_FIELDS),
    (AnsweredCustom, schemas.CUSTOM_CALL_FIELDS),
    (ResponseOutputText, schemas.PART_FIELDS["output_text"]),
    (ResponseOutputRefusal, schemas.ANSWER_PART_FIELDS["refusal"]),
    (ResponseInputText, schemas.PART_FIELDS["input_text"]),
]


@pytest.mark.parametrize(("typed", "fields"), API)
def test_every_field_of_the_api_is_mapped_ignored_or_rejected(typed: Any, fields: Fields) -> None:
    known = fields.mapped | fields.no_effect | set(fields.neutral)
    names = typed.model_fields if isinstance(typed, type) and issubclass(typed, BaseModel) else get_type_hints(typed)
    assert set(names) <= known


def test_every_role_of_the_api_is_known() -> None:
    roles = [get_args(get_type_hints(message)["role"]) for message in get_args(ChatCompletionMessageParam)]
    assert {role for (role,) in roles} == set(schemas.MESSAGE_FIELDS)


def test_no_field_is_in_two_tables() -> None:
    tables = [*vars(schemas).values(), *vars(schemas_tasks).values()]
    tables += [table for group in tables if isinstance(group, dict) for table in group.values()]
    field_tables = [table for table in tables if isinstance(table, Fields)]
    assert len(field_tables) > 20
    for fields in field_tables:
        known = fields.mapped | fields.no_effect | set(fields.neutral)
        assert len(fields.mapped) + len(fields.no_effect) + len(fields.neutral) == len(known)


WITH_ANOTHER_NAME = (contract.LOGIT_BIAS_TOKEN_IDS, contract.LARK, contract.TIMINGS, contract.PROMPT_PROGRESS)


@pytest.mark.parametrize(
    ("fields", "others"),
    [(schemas.COMPLETION_FIELDS, set()), (schemas.CHAT_FIELDS, {contract.ECHO.name, contract.SUFFIX.name})],
)
def test_every_sampling_input_of_the_contract_has_a_field(fields: Fields, others: set[str]) -> None:
    server_inputs = {spec.name for spec in (contract.PROMPT, contract.PROMPT_TOKEN_IDS, *inputs.SERVER_INPUTS)}
    with_another = {spec.name for spec in WITH_ANOTHER_NAME}
    assert {spec.name for spec in contract.INPUTS} - server_inputs - with_another - others <= fields.mapped


# ---- Parsing

MESSAGES = [{"role": "user", "content": "x"}]


def completion(**body: object) -> CompletionRequest:
    return parse_completion(json.dumps({"prompt": "x", **body}).encode())


def chat(*messages: Mapping[str, object], **body: object) -> ChatRequest:
    return parse_chat(json.dumps({"messages": list(messages) or MESSAGES, **body}).encode())


def rejection(param: str | None, **body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        completion(**body)
    assert caught.value.param == param
    return caught.value


def chat_rejection(param: str | None, *messages: Mapping[str, object], **body: object) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        chat(*messages, **body)
    assert caught.value.param == param
    return caught.value


@pytest.mark.parametrize("parse", [completion, chat])
@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("temperature", [0, 0.5, 2], [-0.1, 2.1, "1", True, [1]]),
        ("top_p", [0, 1], [-0.1, 1.1, "x"]),
        ("presence_penalty", [-2, 2], [-2.1, 2.1]),
        ("frequency_penalty", [-2, 2], [-2.1, 2.1]),
        ("repetition_penalty", [0.01, 10], [0, 11, -1]),
        ("min_p", [0, 1], [-0.1, 1.1]),
        ("top_k", [-1, 0, 2**31 - 1], [-2, 2**31, 1.5]),
        ("n", [1, 128], [0, 129, -1, 1.5, True]),
        ("max_tokens", [0, 2**31 - 1], [-1, 2**31, 1.5, "1"]),
        ("seed", [-(2**63), 2**63 - 1], [2**63, 2**64, 2**70, -(2**63) - 1, 0.5]),
        ("stop", ["x", ["x"], ["x"] * 16, []], ["", [""], ["x"] * 17, 3, {}, [3]]),
        ("stream", [True, False], [1, "true"]),
        ("model", ["x", ""], [1, ["x"]]),
    ],
)
def test_values_outside_the_range_are_rejected(parse: Any, field: str, good: list[object], bad: list[object]) -> None:
    for value in [*good, None]:
        assert getattr(parse(**{field: value}), field) == value
    for value in bad:
        with pytest.raises(InvalidRequest) as caught:
            parse(**{field: value})
        assert caught.value.param in (field, f"{field}[0]")
        assert caught.value.code is None


@pytest.mark.parametrize("field", sorted(schemas.CHAT_FIELDS.neutral))
def test_unsupported_fields_of_chats_are_rejected(field: str) -> None:
    for value in [None, *schemas.CHAT_FIELDS.neutral[field]]:
        chat(**{field: value})
    for value in (7, "7", {"a": 1}, [1]):
        assert chat_rejection(field, **{field: value}).code == "unsupported_parameter"


def test_a_number_is_not_accepted_as_a_boolean() -> None:
    rejection("echo", echo=0)
    rejection("best_of", best_of=True)


def test_ignored_fields_accept_any_value() -> None:
    completion(user="me")
    chat(user="me")


def test_an_unknown_field_is_rejected() -> None:
    assert rejection("foo", foo=None).message == "Unrecognized request argument supplied: foo"
    chat_rejection("messages[0].foo", {"role": "user", "content": "x", "foo": 1})


# ---- Prompts


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_a_prompt_may_be_texts_or_token_ids(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("prompt", "param"),
    [
        (None, "prompt"),
        ([], "prompt"),
        ([[]], "prompt[0]"),
        (3, "prompt"),
        ([1, "a"], "prompt"),
        ([[1], 2], "prompt"),
        ([-1], "prompt[0]"),
        ([2**31], "prompt[0]"),
        ([True], "prompt[0]"),
        ([[1, 1.5]], "prompt[0][1]"),
        ([None], "prompt[0]"),
        ({}, "prompt"),
    ],
)
def test_an_invalid_prompt_is_rejected(prompt: object, param: str) -> None:
    rejection(param, prompt=prompt)


def test_a_prompt_is_required() -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_completion(b"{}")
    assert caught.value.param == "prompt"


def test_the_number_of_choices_is_limited() -> None:
    completion(prompt=["x"] * 16, n=128)
    rejection("prompt", prompt=["x"] * 17, n=128)


# ---- Token limits and streams


def test_the_token_limit_is_named_after_the_field_that_set_it() -> None:
    def limit(request: Request) -> tuple[str, int | None]:
        turn = request.turn()
        return turn.name("token_limit"), turn.token_limit

    assert limit(completion()) == ("max_tokens", 16)
    assert completion().turn().has_default_limit
    assert limit(completion(max_tokens=0)) == ("max_tokens", 0)
    assert not completion(max_tokens=16).turn().has_default_limit
    assert limit(chat()) == ("max_tokens", None)
    assert limit(chat(max_tokens=5)) == ("max_tokens", 5)
    assert limit(chat(max_completion_tokens=5)) == ("max_completion_tokens", 5)
    assert limit(chat(max_tokens=5, max_completion_tokens=5)) == ("max_completion_tokens", 5)
    chat_rejection("max_tokens", max_tokens=5, max_completion_tokens=6)


def test_stream_options_are_parsed() -> None:
    assert completion(stream=True, stream_options={"include_usage": True}).include_usage
    assert not completion(stream=True, stream_options={"include_obfuscation": False}).include_usage
    assert not completion(stream=True, stream_options=None).include_usage
    rejection("stream_options", stream_options={"include_usage": True})
    rejection("stream_options", stream=True, stream_options=True)
    rejection("stream_options.foo", stream=True, stream_options={"foo": 1})
    rejection("stream_options.include_obfuscation", stream=True, stream_options={"include_obfuscation": True})
    rejection("stream_options.include_usage", stream=True, stream_options={"include_usage": "yes"})


# ---- Messages


def test_messages_of_every_role_are_parsed() -> None:
    request = chat(
        {"role": "developer", "content": "d"},
        {"role": "system", "content": [{"type": "text", "text": "s"}], "name": "n"},
        {"role": "user", "content": "u"},
        {
            "role": "assistant",
            "content": None,
            "refusal": None,
            "annotations": [],
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "t", "tool_call_id": "1"},
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "content": None, "name": "f"},
        {"role": "assistant", "content": "", "function_call": None, "reasoning_content": "r"},
    )
    assert request.messages[5] == AssistantMessage(function_call=FunctionCall("f", "{}"))
    assert request.messages[7] == AssistantMessage("", reasoning_content="r")
    assert request.messages[2] == UserMessage("u")
    assert request.messages[4] == ToolMessage("t", "1")


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({}, "messages[0].role"),
        ({"role": "robot", "content": "x"}, "messages[0].role"),
        ({"role": 1, "content": "x"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": None}, "messages[0].content"),
        ({"role": "user", "content": 1}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": ["x"]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"text": "x"}]}, "messages[0].content[0].type"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": [{"type": "text", "text": "x", "y": 1}]}, "messages[0].content[0].y"),
        ({"role": "user", "content": "x", "name": 3}, "messages[0].name"),
        ({"role": "assistant", "content": "x", "audio": {"id": "1"}}, "messages[0].audio"),
        ({"role": "assistant", "content": "x", "refusal": 1}, "messages[0].refusal"),
        ({"role": "assistant", "content": "x", "reasoning_content": ["r"]}, "messages[0].reasoning_content"),
        ({"role": "assistant", "function_call": {}}, "messages[0].function_call.name"),
        ({"role": "assistant", "function_call": {"name": "f"}}, "messages[0].function_call.arguments"),
        (
            {"role": "assistant", "function_call": {"name": "f", "arguments": "", "y": 1}},
            "messages[0].function_call.y",
        ),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}, "messages[0].tool_calls[0].custom"),
        ({"role": "assistant", "tool_calls": [{"id": "1", "type": "shell"}]}, "messages[0].tool_calls[0].type"),
        ({"role": "tool", "content": "x"}, "messages[0].tool_call_id"),
        ({"role": "function", "content": "x"}, "messages[0].name"),
        ("x", "messages[0]"),
    ],
)
def test_an_invalid_message_is_rejected(message: Any, param: str) -> None:
    chat_rejection(param, message)


@pytest.mark.parametrize("messages", [None, [], "x", {}, 1])
def test_invalid_lists_of_messages_are_rejected(messages: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(json.dumps({"messages": messages}).encode())
    assert caught.value.param == "messages"


# ---- Extensions and guides


@pytest.mark.parametrize("parse", [completion, chat])
@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("repeat_penalty", {"repeat_penalty": 1.1, "repetition_penalty": 1.2}),
        ("logit_bias", {"logit_bias": {"abc": 1}}),
        ("logit_bias", {"logit_bias": {"-1": 1}}),
        ("logit_bias", {"logit_bias": {str(2**31): 1}}),
        ("regex", {"json_schema": {}, "regex": "a"}),
        ("grammar", {"response_format": {"type": "json_object"}, "grammar": "a"}),
        (
            "response_format.json_schema.name",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "é"}}},
        ),
        ("response_format.schema", {"response_format": {"type": "text", "schema": {}}}),
        ("response_format.json_schema.x", {"response_format": {"type": "json_schema", "json_schema": {"x": 1}}}),
        ("response_format.json_schema", {"response_format": {"type": "json_schema"}}),
        ("response_format.type", {"response_format": {"type": "xml"}}),
        ("mirostat", {"mirostat": 3}),
        ("stop_token_ids[0]", {"stop_token_ids": [-1]}),
    ],
)
def test_invalid_extensions_are_rejected(parse: Any, field: str, body: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(**body)
    assert caught.value.param == field


def test_times_and_progress_are_for_one_prompt() -> None:
    turn = completion(timings_per_token=True, return_progress=True, stream=True).turn()
    assert (turn.timings, turn.progress) == (True, True)
    assert (turn.name("timings"), turn.name("progress")) == ("timings_per_token", "return_progress")
    assert chat(timings_per_token=True).turn().timings
    for field in ("timings_per_token", "return_progress"):
        rejection(field, prompt=["a", "b"], stream=True, **{field: True})
        completion(prompt=["a"], stream=True, **{field: True})
        completion(prompt=["a", "b"], **{field: False})
    rejection("return_progress", return_progress=True)
    chat_rejection("return_progress", return_progress=True)
    completion(return_progress=False)


def test_reasoning_has_one_limit_under_any_of_its_names() -> None:
    for field in ("thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens"):
        turn = chat(**{field: 5}).turn()
        assert (turn.reasoning_limit, turn.name("reasoning_limit")) == (5, field)
        assert chat(**{field: 0}).turn().reasoning_limit == 0
        assert chat(**{field: -1}).turn().reasoning_limit is None
        chat_rejection(field, **{field: -2})
        chat_rejection(field, **{field: 2**31})
        rejection(field, **{field: 5})
    turn = chat(thinking_token_budget=-1, reasoning_budget_tokens=3, thinking_budget_tokens=None).turn()
    assert (turn.reasoning_limit, turn.name("reasoning_limit")) == (3, "reasoning_budget_tokens")
    chat_rejection("thinking_budget_tokens", thinking_token_budget=3, thinking_budget_tokens=3)


def test_a_penalty_may_have_either_of_its_names() -> None:
    for request in (completion(repeat_penalty=1.5), chat(repeat_penalty=1.5, repetition_penalty=1.5)):
        turn = request.turn()
        assert (turn.name("repetition_penalty"), turn.sampling.repetition_penalty) == ("repeat_penalty", 1.5)
    turn = completion(repetition_penalty=1.5).turn()
    assert (turn.name("repetition_penalty"), turn.sampling.repetition_penalty) == ("repetition_penalty", 1.5)


def test_sampling_has_the_names_of_the_api() -> None:
    values: dict[str, Any] = {
        name: {"5": 1.5} if name == "logit_bias" else ["x"] if name == "dry_sequence_breakers" else 1
        for name in Sampling.__struct_fields__
    } | {"stop": "x", "stop_token_ids": [1], "ignore_eos": True, "skip_special_tokens": True}
    for request in (completion(**values), chat(**values)):
        assert msgspec.to_builtins(request.turn().sampling) == values | {"stop": ["x"]}


def test_the_text_format_sets_no_guide() -> None:
    request = completion(response_format={"type": "text"}, regex="a")
    assert request.turn().guide == Guide(field="regex", regex="a")


@pytest.mark.parametrize(
    ("body", "guide"),
    [
        ({}, NO_GUIDE),
        ({"response_format": {"type": "text"}}, NO_GUIDE),
        ({"response_format": {"type": "json_object"}}, {"json_schema": {"type": "object"}}),
        ({"response_format": {"type": "json_object", "schema": {"enum": [1]}}}, {"json_schema": {"enum": [1]}}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "strict": True}}},
            {"json_schema": {"type": "object"}, "name": "n", "strict": True},
        ),
        ({"json_schema": {}}, {"json_schema": {}}),
        ({"grammar": "root ::= []"}, {"grammar": "root ::= []"}),
    ],
)
def test_a_guide_is_parsed(body: dict[str, Any], guide: Any) -> None:
    expected = guide if isinstance(guide, Guide) else Guide(field=next(iter(body)), **guide)
    assert completion(**body).turn().guide == chat(**body).turn().guide == expected
    assert bool(expected) is bool(guide)


def test_best_of_sets_the_number_of_generated_choices() -> None:
    turn = completion(n=2, best_of=4).turn()
    assert (turn.n_returned, turn.n_generated, turn.n_to_send, turn.chooses_best) == (2, 4, 4, True)
    assert (turn.name("n_to_send"), turn.name("n_returned")) == ("best_of", "n")
    for body, n_to_send in (({}, None), ({"best_of": 1}, None), ({"n": 1}, 1), ({"n": 2, "best_of": 2}, 2)):
        turn = completion(**body).turn()
        assert (turn.n_to_send, turn.chooses_best, turn.name("n_to_send")) == (n_to_send, False, "n")
    assert rejection("best_of", n=2, best_of=1).status == 400
    rejection("best_of", best_of=2, stream=True)
    completion(n=2, best_of=2, stream=True)
    rejection("prompt", prompt=["x"] * 20, best_of=128)


def test_logprobs_set_the_number_of_top_logprobs() -> None:
    assert completion(logprobs=0).turn().top_logprobs == 0
    assert completion().turn().top_logprobs is None
    assert chat(logprobs=True).turn().top_logprobs == 0
    assert chat(logprobs=True, top_logprobs=20).turn().top_logprobs == 20
    assert chat(logprobs=False).turn().top_logprobs is None
    chat_rejection("top_logprobs", top_logprobs=3)
    chat_rejection("top_logprobs", logprobs=True, top_logprobs=21)
    rejection("logprobs", logprobs=6)


# ---- Tools


def function(name: str, **more: object) -> dict[str, object]:
    return {"name": name, "parameters": {"type": "object"}, **more}


def tool(name: str, **more: object) -> dict[str, object]:
    return {"type": "function", "function": function(name, **more)}


TOOLS = [tool("f"), tool("g", description="…", strict=True)]


def use(**body: object) -> ToolUse:
    tool_use = chat(**body).tool_use
    assert tool_use is not None
    return tool_use


def test_without_tools_there_is_no_tool_use() -> None:
    bodies: list[Any] = [{}, {"tools": []}, {"tools": TOOLS, "tool_choice": "none"}, {"functions": []}]
    assert [chat(**body).tool_use for body in bodies] == [None] * len(bodies)


@pytest.mark.parametrize("choice", [None, "auto"])
def test_tools_may_be_called_by_default(choice: object) -> None:
    tool_use = use(tools=TOOLS, tool_choice=choice)
    assert ([t.function.name for t in tool_use.tools], tool_use.must_call, tool_use.parallel) == (
        ["f", "g"],
        False,
        True,
    )
    assert not use(tools=TOOLS, parallel_tool_calls=False).parallel


def test_a_call_may_be_required() -> None:
    assert use(tools=TOOLS, tool_choice="required").must_call
    named = use(tools=TOOLS, tool_choice={"type": "function", "function": {"name": "g"}})
    assert (named.must_call, named.function_name, named.parallel) == (True, "g", False)


def test_allowed_tools_restrict_the_tools() -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "g"}}]}
    tool_use = use(tools=TOOLS, tool_choice={"type": "allowed_tools", "allowed_tools": allowed})
    assert ([t.function.name for t in tool_use.tools], tool_use.must_call) == (["g"], True)


def custom(name: str, **more: object) -> dict[str, object]:
    return {"type": "custom", "custom": {"name": name, **more}}


def grammar(syntax: str, definition: str, **more: object) -> dict[str, object]:
    return {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition, **more}}


def named_custom(name: str, **more: object) -> dict[str, object]:
    return {"type": "custom", "custom": {"name": name, **more}}


def test_a_custom_tool_is_a_function_with_one_text() -> None:
    turn = chat(tools=[tool("f"), custom("g", description="d", format=grammar("lark", 'start: "a"'))]).turn()
    function, tool_with_grammar = turn.tools
    assert (function.custom, function.function.strict) == (None, False)
    assert tool_with_grammar.custom == CustomFormat("lark", 'start: "a"')
    assert (tool_with_grammar.function.description, tool_with_grammar.function.strict) == ("d", True)
    parameters = tool_with_grammar.function.parameters
    assert parameters is not None
    assert (parameters["required"], parameters["properties"]["input"]["type"]) == (["input"], "string")
    assert 'start: "a"' in parameters["properties"]["input"]["description"]
    assert [turn.tool_field(i) for i in (0, 1)] == [
        "tools[0].function.parameters",
        "tools[1].custom.format.grammar.definition",
    ]


@pytest.mark.parametrize("format", [None, {"type": "text"}, {"type": "text", "grammar": None}])
def test_a_custom_tool_takes_any_text_by_default(format: object) -> None:
    (text_tool,) = chat(tools=[custom("g", format=format)]).turn().tools
    assert (text_tool.custom, text_tool.function.strict) == (CustomFormat(), False)


def test_a_custom_tool_can_be_chosen() -> None:
    chosen = use(tools=[*TOOLS, custom("c")], tool_choice=named_custom("c"))
    assert (chosen.must_call, chosen.function_name, chosen.parallel) == (True, "c", False)
    both = use(tools=[*TOOLS, custom("c")], tool_choice=allowed(named("f"), named_custom("c")))
    assert [tool.name for tool in both.tools] == ["f", "c"]


def test_functions_become_tools() -> None:
    tool_use = use(functions=[function("f")], function_call={"name": "f"})
    assert (tool_use.legacy, tool_use.function_name, tool_use.parallel) == (True, "f", False)
    turn = chat(functions=[function("f")]).turn()
    assert ([tool.function.name for tool in turn.tools], turn.name("tools")) == (["f"], "functions")
    assert turn.name("parameters").format(0) == "functions[0].parameters"
    assert chat(functions=[function("f")], function_call="none").tool_use is None


def named(name: str, **more: object) -> dict[str, object]:
    return {"type": "function", "function": {"name": name}} | more


def allowed(*tools: dict[str, object]) -> dict[str, object]:
    return {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": list(tools)}}


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}),
        ("function_call", {"functions": [function("f")], "function_call": {"name": "x"}}),
        ("functions", {"functions": [function("f")], "tools": TOOLS}),
        ("tools", {"tools": [tool("f"), tool("f")]}),
        ("tools[0].function.name", {"tools": [tool("a b")]}),
        ("tools[0].type", {"tools": [{"type": "mcp", "mcp": {"name": "x"}}]}),
        ("tools", {"tools": [tool("f"), custom("f")]}),
        ("tools[0].custom.name", {"tools": [custom("a b")]}),
        ("tools[0].custom.x", {"tools": [custom("f", x=1)]}),
        ("tools[0].custom.format.type", {"tools": [custom("f", format={})]}),
        ("tools[0].custom.format.grammar", {"tools": [custom("f", format={"type": "grammar"})]}),
        ("tools[0].custom.format.grammar.x", {"tools": [custom("f", format=grammar("regex", "a", x=1))]}),
        ("tools[0].custom.format.grammar.syntax", {"tools": [custom("f", format=grammar("gbnf", "a"))]}),
        ("tools[0].custom.format.grammar.definition", {"tools": [custom("f", format=grammar("regex", ""))]}),
        ("tool_choice", {"tools": [custom("f")], "tool_choice": named("f")}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": named_custom("f")}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": allowed(named_custom("f"))}),
        ("tool_choice.custom.x", {"tools": [custom("f")], "tool_choice": named_custom("f", x=1)}),
        ("tools[1].function.x", {"tools": [tool("f"), tool("g", x=1)]}),
        ("tools[0].x", {"tools": [{**tool("f"), "x": 1}]}),
        ("tool_choice.x", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "f"}, "x": 1}}),
        ("tool_choice.function.x", {"tools": TOOLS, "tool_choice": named("f", function={"name": "f", "x": 1})}),
        ("tool_choice.allowed_tools.tools[1].x", {"tools": TOOLS, "tool_choice": allowed(named("f"), named("f", x=1))}),
        (
            "tool_choice.allowed_tools.tools[0].function.x",
            {"tools": TOOLS, "tool_choice": allowed(named("f", function={"name": "f", "x": 1}))},
        ),
        ("function_call.x", {"functions": [function("f")], "function_call": {"name": "f", "x": 1}}),
        ("tools[0].function.name", {"tools": [tool("f\n")]}),
        (
            "response_format.json_schema.name",
            {"response_format": {"type": "json_schema", "json_schema": {"name": "f\n", "schema": {}}}},
        ),
        ("grammar", {"tools": TOOLS, "grammar": 'root ::= "a"'}),
        ("tools", {"tools": [tool(f"f{i}") for i in range(513)]}),
        ("continue_final_message", {"continue_final_message": True, "add_generation_prompt": True}),
        ("reasoning_effort", {"reasoning_effort": "much"}),
    ],
)
def test_invalid_tools_are_rejected(param: str, body: dict[str, object]) -> None:
    chat_rejection(param, **body)


# ---- Fields with few allowed values


def test_all_fields_with_few_allowed_values_are_listed() -> None:
    names = set()
    generating = (ChatRequest, CompletionRequest, ResponsesBody, MessagesRequest, CountTokensRequest)
    parsed = (*generating, EmbeddingRequest, RerankRequest, *get_args(TokenizeRequest))
    kinds: list[Any] = list(msgspec.inspect.multi_type_info(parsed))
    while kinds:
        kind = kinds.pop()
        if isinstance(kind, msgspec.inspect.StructType):
            names |= {kind.tag_field} - {None}
            for field in kind.fields:
                options = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
                literals = [option for option in options if isinstance(option, msgspec.inspect.LiteralType)]
                if any(isinstance(value, str) for literal in literals for value in literal.values):
                    names.add(field.name)
                kinds += options
        elif isinstance(kind, msgspec.inspect.UnionType):
            kinds += kind.types
        elif isinstance(kind, msgspec.inspect.ListType):
            kinds.append(kind.item_type)
    assert names == bounds.KEYWORD_FIELDS
