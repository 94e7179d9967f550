"""Every key, block and event that the `anthropic` package types, also those of betas, is in a table."""

from typing import Any, get_args

import pytest
from anthropic import types
from anthropic.types import beta, message_count_tokens_params, message_create_params
from anthropic.types.beta import message_count_tokens_params as beta_count
from anthropic.types.beta import message_create_params as beta_create
from msgspec import Struct

from openai_server.api.messages import answer, fields
from openai_server.api.messages.endpoint import COUNT_TOKENS, MESSAGES
from openai_server.api.schemas.tables import Fields
from tests.openai_server.api.messages.package import keys, tags, variants


def known(table: Fields) -> set[str]:
    return {*table.mapped, *table.no_effect, *table.neutral}


REQUESTS = [
    (message_create_params.MessageCreateParamsNonStreaming, fields.MESSAGES_FIELDS),
    (message_create_params.MessageCreateParamsStreaming, fields.MESSAGES_FIELDS),
    (beta_create.MessageCreateParamsNonStreaming, fields.MESSAGES_FIELDS),
    (beta_create.MessageCreateParamsStreaming, fields.MESSAGES_FIELDS),
    (message_count_tokens_params.MessageCountTokensParams, fields.COUNT_FIELDS),
    (beta_count.MessageCountTokensParams, fields.COUNT_FIELDS),
    (types.OutputConfigParam, fields.OUTPUT_CONFIG),
    (beta.BetaOutputConfigParam, fields.OUTPUT_CONFIG),
    (types.JSONOutputFormatParam, fields.OUTPUT_FORMATS.tables["json_schema"]),
]


@pytest.mark.parametrize(("typed", "table"), REQUESTS)
def test_every_key_of_a_request_is_in_its_table(typed: Any, table: Fields) -> None:
    assert keys(typed) <= known(table)


BLOCKS = [*variants(types.ContentBlockParam), *variants(beta.BetaContentBlockParam), *variants(types.ContentBlock)]


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.__name__)
def test_every_block_and_its_keys_are_in_a_table(block: Any) -> None:
    for tag in tags(block):
        table = fields.BLOCKS.tables[tag]
        assert isinstance(table, Fields)
        assert {key.rstrip("_") for key in keys(block)} <= known(table)


@pytest.mark.parametrize("typed", [*variants(types.MessageParam), *variants(beta.BetaMessageParam)])
def test_every_role_is_in_a_table(typed: Any) -> None:
    for role in tags(typed, "role"):
        table = fields.MESSAGES.tables[role]
        assert isinstance(table, Fields)
        assert keys(typed) <= known(table)


@pytest.mark.parametrize(
    ("union", "tables"),
    [
        (types.ToolChoiceParam, fields.TOOL_CHOICES.tables),
        (beta.BetaToolChoiceParam, fields.TOOL_CHOICES.tables),
        (types.ThinkingConfigParam, fields.THINKING.tables),
        (beta.BetaThinkingConfigParam, fields.THINKING.tables),
        (types.document_block_param.Source, fields.SOURCES.tables),
        (types.tool_result_block_param.Content, fields.RESULT_BLOCKS.tables),
    ],
)
def test_every_variant_is_in_a_table(union: Any, tables: Any) -> None:
    for typed in variants(union):
        for tag in tags(typed):
            assert keys(typed) <= known(tables[tag])


@pytest.mark.parametrize("tool", [*variants(types.ToolUnionParam), *variants(beta.BetaToolUnionParam)])
def test_every_key_of_a_tool_is_in_the_table(tool: Any) -> None:
    assert keys(tool) <= known(fields.TOOL)


def tag(struct: type[Struct]) -> str:
    return str(struct.__struct_config__.tag)


def test_the_events_are_those_of_the_package() -> None:
    description = MESSAGES.described()
    assert description is not None
    described = {tag(event) for event in description.events}
    typed = {name for event in variants(types.RawMessageStreamEvent) for name in tags(event)}
    assert described == typed | {"ping"}


def test_blocks_deltas_and_stop_reasons_are_among_those_of_the_package() -> None:
    deltas = {name for delta in variants(types.RawContentBlockDelta) for name in tags(delta)}
    sent = (answer.TextDelta, answer.ThinkingDelta, answer.SignatureDelta, answer.InputJsonDelta)
    assert {tag(delta) for delta in sent} <= deltas
    blocks = {name for block in variants(types.ContentBlock) for name in tags(block)}
    assert {tag(block) for block in (answer.TextBlock, answer.ThinkingBlock, answer.ToolUseBlock)} <= blocks
    assert set(get_args(answer.StopReason)) <= set(get_args(types.StopReason))


def test_no_key_is_in_two_lists() -> None:
    tables = [fields.MESSAGES_FIELDS, fields.COUNT_FIELDS, fields.TOOL, fields.OUTPUT_CONFIG]
    for variant in (fields.BLOCKS, fields.MESSAGES, fields.TOOL_CHOICES, fields.THINKING, fields.SOURCES):
        tables += [table for table in variant.tables.values() if isinstance(table, Fields)]
    for table in tables:
        assert len(table.mapped) + len(table.no_effect) + len(table.neutral) == len(known(table))
        assert table.is_open


def test_both_endpoints_follow_the_conventions_of_this_api() -> None:
    assert MESSAGES.client_api is COUNT_TOKENS.client_api
