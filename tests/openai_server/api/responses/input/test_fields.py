"""Every key of the openai package's types is in a table: mapped, without effect, or refused by name."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from openai.types.responses import (
    ResponseInputItemParam,
    ResponseOutputItem,
    ResponseTextConfigParam,
    ToolParam,
    input_token_count_params,
    response_compact_params,
    response_create_params,
)
from openai.types.responses.parsed_response import ParsedContent, ParsedResponseOutputItem
from openai.types.responses.response_function_call_output_item_list_param import ResponseFunctionCallOutputItemListParam
from openai.types.responses.response_includable import ResponseIncludable
from openai.types.responses.response_input_content_param import ResponseInputContentParam
from openai.types.responses.response_output_message_param import Content as OutputContent
from openai.types.responses.response_reasoning_item_param import Content as ReasoningContent
from openai.types.responses.response_reasoning_item_param import Summary
from openai.types.shared_params import Reasoning
from pydantic import BaseModel
from typing_extensions import is_typeddict

from openai_server.api.responses.input import fields
from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.responses.input.fields import Unsupported
from openai_server.api.schemas import CHAT_FIELDS, Fields, Request
from openai_server.api.schemas.tables import Table, mapped


def keys(typed: Any) -> set[str]:
    """Returns the keys of a TypedDict or of a pydantic model, as they are sent."""
    if isinstance(typed, type) and issubclass(typed, BaseModel):
        return {info.alias or name for name, info in typed.model_fields.items()}
    return set(get_type_hints(typed))


def variants(union: Any) -> Iterator[Any]:
    """Returns the TypedDicts and models in a union."""
    if is_typeddict(union) or (isinstance(union, type) and issubclass(union, BaseModel)):
        yield union
        return
    for option in get_args(union):
        yield from variants(option)


def types(typed: Any) -> tuple[Any, ...]:
    """Returns the values of `type`."""
    is_model = isinstance(typed, type) and issubclass(typed, BaseModel)
    hint = typed.model_fields["type"].annotation if is_model else get_type_hints(typed)["type"]
    literals: list[Any] = []
    pending = [hint]
    while pending:
        kind = pending.pop()
        if get_origin(kind) is Literal:
            literals += get_args(kind)
        else:
            pending += get_args(kind)
    return tuple(literals)


def unknown_keys(typed: Any, table: Table) -> set[str]:
    if isinstance(table, Unsupported):
        return set()
    assert isinstance(table, Fields)
    return set() if table.is_open else keys(typed) - table.mapped - table.no_effect - table.neutral.keys()


def cases(union: Any, tables: Any) -> list[Any]:
    return [pytest.param(typed, tables, id=typed.__name__) for typed in variants(union)]


PARTS = {**fields.PART_FIELDS, **dict.fromkeys(fields.MEDIA_PARTS, Unsupported(""))}
TAGGED = [
    *cases(ResponseInputItemParam, fields.ITEM_FIELDS),
    *cases(ResponseOutputItem, fields.ITEM_FIELDS),
    *cases(ResponseInputContentParam, PARTS),
    *cases(ResponseFunctionCallOutputItemListParam, PARTS),
    *cases(OutputContent, PARTS),
    *cases(Summary, PARTS),
    *cases(ReasoningContent, PARTS),
    *cases(ParsedResponseOutputItem, fields.ITEM_FIELDS),
    *cases(ParsedContent, PARTS),
    *cases(ToolParam, fields.TOOL_FIELDS),
    *cases(response_create_params.ToolChoice, fields.TOOL_CHOICE_FIELDS),
    *cases(get_type_hints(ResponseTextConfigParam)["format"], fields.TEXT_FORMAT_FIELDS),
]


@pytest.mark.parametrize(("typed", "tables"), TAGGED)
def test_every_tagged_object_of_the_api_has_a_table(typed: Any, tables: Any) -> None:
    tags = types(typed)
    assert tags
    for tag in tags:
        if tag not in ("exec", "item_reference"):  # an action in a union of items; refused before
            assert not unknown_keys(typed, tables[tag]), tag


@pytest.mark.parametrize(
    ("typed", "table"),
    [
        (response_create_params.ResponseCreateParamsNonStreaming, fields.RESPONSES_FIELDS),
        (response_create_params.ResponseCreateParamsStreaming, fields.RESPONSES_FIELDS),
        (input_token_count_params.InputTokenCountParams, fields.RESPONSES_FIELDS),
        (response_compact_params.ResponseCompactParams, fields.RESPONSES_FIELDS),
        (response_create_params.StreamOptions, fields.STREAM_OPTIONS_FIELDS),
        (ResponseTextConfigParam, fields.TEXT_FIELDS),
        (Reasoning, fields.REASONING_FIELDS),
    ],
)
def test_every_field_of_the_body_has_a_place(typed: Any, table: Fields) -> None:
    assert keys(typed)
    assert not unknown_keys(typed, table)


def test_every_value_of_include_is_known() -> None:
    assert set(fields.INCLUDABLE) == set(get_args(ResponseIncludable))


def test_every_sampling_field_of_a_chat_is_a_field_here() -> None:
    others = {"max_tokens", "n", "response_format", "return_progress", "timings_per_token"}
    assert mapped(Request) - others <= fields.RESPONSES_FIELDS.mapped


def test_every_field_of_a_chat_may_be_null() -> None:
    known = fields.RESPONSES_FIELDS.mapped | fields.RESPONSES_FIELDS.no_effect | fields.RESPONSES_FIELDS.neutral.keys()
    assert known >= CHAT_FIELDS.mapped


def tables(table: Table) -> Iterator[Fields]:
    if isinstance(table, Fields):
        yield table
    for name in ("nested", "tables"):
        for inner in getattr(table, name, {}).values():
            yield from tables(inner)
    if hasattr(table, "table"):
        yield from tables(table.table)


def test_no_key_is_in_two_lists() -> None:
    found = list(tables(fields.RESPONSES_FIELDS))
    assert len(found) > 60
    for table in found:
        lists = (table.mapped, table.no_effect, table.neutral.keys())
        assert sum(map(len, lists)) == len(set().union(*lists)), table


def test_all_attributes_of_the_body_are_handled() -> None:
    table = fields.RESPONSES_FIELDS
    assert set(ResponsesBody.__struct_fields__) <= table.mapped | table.neutral.keys()
