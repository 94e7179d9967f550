"""Every event, item and part of the openai package is either sent, or is listed here as never sent.

So a new version of the package fails these tests until each of its new types has been considered.
"""

from typing import Any, get_args

from msgspec import Struct
from openai.types.responses import Response, ResponseOutputItem, ResponseStreamEvent
from openai.types.responses.response_content_part_added_event import Part
from pydantic import BaseModel

from openai_server.api.responses import answer
from openai_server.api.responses.output.stream_events import EVENT_TYPES

KINDS_NEVER_SENT = {
    # Text is the only output.
    *("audio", "image_generation_call"),
    # Tools that run on OpenAI's servers.
    *("code_interpreter_call", "code_interpreter_call_code", "file_search_call", "web_search_call"),
    *("mcp_call", "mcp_call_arguments", "mcp_list_tools", "shell_call_command", "shell_call_output_content"),
    # Reasoning is sent whole, without a summary.
    *("reasoning_summary_part", "reasoning_summary_text"),
}
"""Kinds of events: the second word of their types."""
EVENTS_NEVER_SENT = {"response.output_text.annotation.added"}
"""Annotations quote search results."""
ITEMS_NEVER_SENT = {
    # Calls of tools that run on OpenAI's servers, and their results.
    *("apply_patch_call", "apply_patch_call_output", "code_interpreter_call", "computer_call", "computer_call_output"),
    *("file_search_call", "image_generation_call", "local_shell_call", "local_shell_call_output", "mcp_call"),
    *("mcp_approval_request", "mcp_approval_response", "mcp_list_tools", "program", "program_output", "shell_call"),
    *("shell_call_output", "tool_search_call", "tool_search_output", "web_search_call"),
    # Items that only clients send.
    *("additional_tools", "custom_tool_call_output", "function_call_output"),
}


def typed_names(union: Any) -> set[str]:
    """Returns the values of `type` of a union's models."""
    models: tuple[type[BaseModel], ...] = get_args(get_args(union)[0])
    names = {name for model in models for name in get_args(model.model_fields["type"].annotation)}
    assert len(names) == len(models)
    return names


def sent_names(*structs: type[Struct]) -> set[str]:
    return {str(struct.__struct_config__.tag) for struct in structs}


def test_every_event_is_sent_or_listed() -> None:
    sent, typed = sent_names(*EVENT_TYPES), typed_names(ResponseStreamEvent)
    assert sent <= typed
    unsent = {name for name in typed - sent if name.split(".")[1] not in KINDS_NEVER_SENT}
    assert unsent == EVENTS_NEVER_SENT
    kinds = {name.split(".")[1] for name in typed - sent}
    assert kinds >= KINDS_NEVER_SENT, "a kind that the package no longer has"


def test_every_item_is_sent_or_listed() -> None:
    sent = sent_names(*get_args(answer.ResponseItem))
    assert sent.isdisjoint(ITEMS_NEVER_SENT)
    assert sent | ITEMS_NEVER_SENT == typed_names(ResponseOutputItem)


def test_every_part_is_sent() -> None:
    assert sent_names(*get_args(answer.ResponsePart)) == typed_names(Part)


def test_every_field_of_a_response_is_sent_or_listed() -> None:
    never_sent = {
        # Features that are refused in requests.
        *("access_programs", "image", "moderation", "prompt", "prompt_cache_options"),
        *("input_transformations", "prompt_cache_diagnostics", "prompt_cache_retention", "tool_usage"),
    }
    sent = {*answer.ResponseObject.__struct_fields__, "object"}
    assert set(Response.model_fields) - sent == never_sent
