"""Checks answers of the Responses and Messages APIs: every value, every field, and the order of a stream's events.

The `openai` and `anthropic` packages are the reference. They accept unknown fields, so those are collected and compared
with a list.
"""

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import Any

import anthropic.types
from anthropic.types import Message, RawMessageStreamEvent
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

RESPONSE_EVENT: TypeAdapter[ResponseStreamEvent] = TypeAdapter(ResponseStreamEvent)
MESSAGE_EVENT: TypeAdapter[RawMessageStreamEvent] = TypeAdapter(RawMessageStreamEvent)
SPECIFICATIONS = files("llm_comply") / "specs"
OPEN_RESPONSES_FIELDS = frozenset({"store", "presence_penalty", "frequency_penalty", "status"})
"""Fields that the Open Responses specification requires and some types of the openai package lack. `status` is that of
a call of a custom tool."""
PARTS = {
    "output_text": ("response.output_text", "text"),
    "refusal": ("response.refusal", "refusal"),
    "reasoning_text": ("response.reasoning_text", "text"),
}
"""Kind of a content part: its events, and its field with the text."""
ITEMS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
}
DELTAS = {
    "text": {"text_delta", "citations_delta"},
    "thinking": {"thinking_delta", "signature_delta"},
    "tool_use": {"input_json_delta"},
}


@cache
def required_fields(file: str, schema: str) -> frozenset[str]:
    """Returns the fields, null or not, that a specification requires of an object."""
    schemas = json.loads((SPECIFICATIONS / file).read_text())["components"]["schemas"]
    return frozenset(schemas[schema]["required"])


def unknown_names(value: object) -> set[str]:
    """Returns the names of the fields, at any depth, that the package's types don't have."""
    if isinstance(value, BaseModel):
        fields = [getattr(value, name) for name in type(value).model_fields]
        return set(value.model_extra or ()).union(*map(unknown_names, fields))
    return set().union(*map(unknown_names, value)) if isinstance(value, list) else set()


# ---- Responses


def check_response(payload: dict[str, Any]) -> Response:
    response = Response.model_validate_json(json.dumps(payload), strict=True)
    assert unknown_names(response) <= OPEN_RESPONSES_FIELDS
    assert payload.keys() >= required_fields("openresponses.json", "ResponseResource")
    ids = [item["id"] for item in payload["output"]]
    assert len(set(ids)) == len(ids)
    if response.status in ("completed", "incomplete"):
        assert response.usage is not None
        assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert (response.status == "incomplete") == (response.incomplete_details is not None)
    return response


def check_response_stream(body: bytes) -> Response:
    """Returns the response of the last event."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    blocks = [block for block in blocks if not block.startswith(":")]
    assert blocks.pop() == "data: [DONE]"
    events = [_event(block) for block in blocks]
    for number, event in enumerate(events):
        assert event["sequence_number"] == number
        typed = RESPONSE_EVENT.validate_json(json.dumps(event), strict=True)
        assert typed.type == event["type"]
        assert unknown_names(typed) <= OPEN_RESPONSES_FIELDS, event
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert events[0]["response"]["output"] == []
    last = events[-1]
    assert last["type"] in ("response.completed", "response.incomplete"), last
    items = _items(events[2:-1])
    assert last["response"]["output"] == items
    assert last["response"]["id"] == events[0]["response"]["id"]
    assert last["type"] == f"response.{last['response']['status']}"
    check_response(events[0]["response"])
    return check_response(last["response"])


def _event(block: str) -> dict[str, Any]:
    name, data = block.split("\n")
    event: dict[str, Any] = json.loads(data.removeprefix("data: "))
    assert name == f"event: {event['type']}"
    return event


def _items(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Checks that the events open and close one item after another. Returns the complete items."""
    items: list[dict[str, Any]] = []
    remaining = iter(events)
    for event in remaining:
        assert event["type"] == "response.output_item.added", event
        item = event["item"]
        assert event["output_index"] == len(items)
        assert item.get("status", "in_progress") == "in_progress"
        done = _item(item, remaining, len(items))
        assert (done["id"], done["type"]) == (item["id"], item["type"])
        items.append(done)
    return items


def _item(item: dict[str, Any], events: Iterator[dict[str, Any]], index: int) -> dict[str, Any]:
    kind, text = item["type"], ""
    parts: list[dict[str, Any]] = []
    for event in events:
        assert event["output_index"] == index
        if event["type"] == "response.output_item.done":
            done: dict[str, Any] = event["item"]
            if kind in ITEMS:
                assert done[ITEMS[kind][1]] == text
                assert done["call_id"] == item["call_id"]
            else:
                assert (done.get("content") or []) == parts
            return done
        assert event["item_id"] == item["id"]
        if event["type"] == "response.content_part.added":
            assert event["content_index"] == len(parts)
            parts.append(_part(event, events))
        elif event["type"].startswith("response.reasoning_summary"):
            assert kind == "reasoning"
        else:
            prefix, field = ITEMS[kind]
            if event["type"] == f"{prefix}.delta":
                text += event["delta"]
            else:
                assert event["type"] == f"{prefix}.done"
                assert event[field] == text
    raise AssertionError("an item that doesn't end")


def _part(added: dict[str, Any], events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    prefix, field = PARTS[added["part"]["type"]]
    assert added["part"][field] == ""
    text, is_done = "", False
    for event in events:
        assert [event[name] for name in ("item_id", "output_index", "content_index")] == [
            added[name] for name in ("item_id", "output_index", "content_index")
        ]
        if event["type"] == f"{prefix}.delta":
            assert not is_done
            assert event["delta"]
            text += event["delta"]
        elif event["type"] == f"{prefix}.done":
            is_done = True
            assert event[field] == text
        elif event["type"] == "response.content_part.done":
            assert is_done
            assert event["part"][field] == text
            return dict(event["part"])
        else:
            assert event["type"] == "response.output_text.annotation.added", event
    raise AssertionError("a content part that doesn't end")


# ---- Messages


def check_message(payload: dict[str, Any]) -> Message:
    message = Message.model_validate_json(json.dumps(payload), strict=True)
    assert unknown_names(message) == set()
    assert payload.keys() >= required_fields("anthropic.json", "Message")
    assert payload["usage"].keys() >= required_fields("anthropic.json", "Usage")
    assert message.id.startswith("msg_")
    assert message.stop_reason is not None
    assert (message.stop_reason == "stop_sequence") == (message.stop_sequence is not None)
    assert (message.stop_reason == "tool_use") == any(block.type == "tool_use" for block in message.content)
    for block in payload["content"]:
        if block["type"] == "text":
            assert isinstance(block["citations"], list), "@ai-sdk/anthropic refuses null"
    return message


def check_message_stream(body: bytes) -> Message:
    """Returns the message that the events add up to."""
    blocks = body.decode().split("\n\n")
    assert blocks.pop() == ""
    events = [_event(block) for block in blocks if not block.startswith(":")]
    for event in events:
        if event["type"] != "ping":
            typed = MESSAGE_EVENT.validate_json(json.dumps(event), strict=True)
            assert typed.type == event["type"]
            assert unknown_names(typed) == set(), event
    remaining = iter([event for event in events if event["type"] != "ping"])
    message: dict[str, Any] = next(remaining)["message"]
    assert (message["content"], message["stop_reason"]) == ([], None)
    for event in remaining:
        if event["type"] == "message_delta":
            message.update(event["delta"])
            message["usage"] = {**message["usage"], **event["usage"]}
            break
        assert event["type"] == "content_block_start", event
        assert event["index"] == len(message["content"])
        message["content"].append(_block(event, remaining))
    assert [event["type"] for event in remaining] == ["message_stop"]
    return check_message(message)


def _block(start: dict[str, Any], events: Iterator[dict[str, Any]]) -> dict[str, Any]:
    block: dict[str, Any] = start["content_block"]
    kind, partial_json = block["type"], ""
    if kind == "tool_use":
        assert block["input"] == {}
    for event in events:
        assert event["index"] == start["index"]
        if event["type"] == "content_block_stop":
            if kind == "tool_use":
                block["input"] = json.loads(partial_json or "{}")
            return block
        delta = event["delta"]
        assert delta["type"] in DELTAS[kind]
        match delta["type"]:
            case "text_delta":
                block["text"] += delta["text"]
            case "thinking_delta":
                block["thinking"] += delta["thinking"]
            case "signature_delta":
                block["signature"] += delta["signature"]
            case "input_json_delta":
                partial_json += delta["partial_json"]
    raise AssertionError("a block that doesn't end")


def check_token_count(payload: dict[str, Any]) -> int:
    count = anthropic.types.MessageTokensCount.model_validate_json(json.dumps(payload), strict=True)
    assert unknown_names(count) == set()
    return count.input_tokens
