"""Shared by the tests of `/v1/responses`: requests, and checks of the events of a stream."""

import json
from collections.abc import Iterable
from copy import deepcopy
from typing import Any, get_args

from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

from openai_server.api.answer_stream import AnswerStream
from openai_server.api.answers import AnswerIdentity
from openai_server.api.responses.output.writer import ResponsesWriter
from openai_server.api.responses.settings import CalledTool, ResponsesRequest, Settings
from openai_server.core.rows import Row
from openai_server.core.sealing import Seal
from openai_server.core.turn import Sampling, Turn
from openai_server.core.usage import Usage
from openai_server.parsing.choice_reader import AnswerFormat
from tests.shapes import exact

IDENTITY = AnswerIdentity("resp_0123", 1700000000, 'org/"mödel"')
NOW = 1700000002.5
"""Unix seconds at the end of every response."""
USAGE = Usage(3, 4, 1, 2)
SETTINGS = Settings(
    text={"format": {"type": "text"}},
    reasoning={"effort": None, "summary": None},
    metadata={},
)
EXTENSIONS = frozenset({"store", "status", "presence_penalty", "frequency_penalty", "bytes", "error"})
"""Keys that the `openai` package lacks and Open Responses requires: fields of a response, the status of a custom call,
the bytes of the tokens of a delta, and the nested form of an error."""
EVENT_TYPES: dict[str, type[BaseModel]] = {
    get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(get_args(ResponseStreamEvent)[0])
}
"""The package's type of each event."""
STATUSES = {"response.completed": "completed", "response.incomplete": "incomplete", "response.failed": "failed"}


def request(
    settings: Settings = SETTINGS, *, include: Iterable[str] = (), tools: dict[str, CalledTool] | None = None
) -> ResponsesRequest:
    turn = Turn(sampling=Sampling(), names={})
    return ResponsesRequest(turn=turn, stream=True, settings=settings, include=frozenset(include), tools=tools or {})


def writer(request: ResponsesRequest, format: AnswerFormat | None = None, seal: Seal | None = None) -> ResponsesWriter:
    return ResponsesWriter.of(IDENTITY, request, format, seal, lambda: NOW)


def streamed(
    rows: Iterable[Row],
    request: ResponsesRequest,
    format: AnswerFormat | None = None,
    usage: Usage | None = USAGE,
    seal: Seal | None = None,
) -> list[Any]:
    """The events of a stream, checked."""
    answer = AnswerStream(writer(request, format, seal), 1, format)
    return events(b"".join(answer.take([row]) for row in rows) + answer.end(usage))


def events(data: bytes) -> list[Any]:
    """The events, without `[DONE]`. Checks their names, numbers, types and order."""
    blocks = data.decode().split("\n\n")
    assert blocks.pop() == ""
    assert blocks.pop() == "data: [DONE]"
    payloads = []
    for number, block in enumerate(blocks):
        name, line = block.split("\n")
        payload = json.loads(line.removeprefix("data: "))
        assert name == f"event: {payload['type']}"
        assert payload["sequence_number"] == number
        exact(EVENT_TYPES[payload["type"]], _with_known_code(payload), EXTENSIONS)
        payloads.append(payload)
    _check_order(payloads)
    return payloads


def _check_order(payloads: list[Any]) -> None:
    """Follows the stream as a client does, and compares the result with the response at its end."""
    begin, (*middle, last) = _begin(deepcopy(payloads))
    for event in begin:
        assert _comparable(event["response"]) == _comparable(begin[0]["response"])
        assert event["response"]["output"] == []
    items: list[Any] = []
    item: Any = None
    part: Any = None
    text = ""
    for event in middle:
        kind = event["type"].removeprefix("response.")
        if kind == "error":
            assert last["type"] == "response.failed"
            continue
        assert event["output_index"] == len(items)
        if kind == "output_item.added":
            assert item is None
            item, part, text = event["item"], None, ""
            assert item.get("status", "in_progress") == "in_progress"
            continue
        assert event.get("item_id", item["id"]) == item["id"]
        if "content_index" in event:
            assert event["content_index"] == len(item["content"])
        if kind == "content_part.added":
            assert part is None
            part, text = event["part"], ""
            assert part.get("text", part.get("refusal")) == ""
        elif kind.endswith(".delta"):
            assert ("content_index" in event) == (part is not None)
            text += event["delta"]
        elif kind == "content_part.done":
            key = "refusal" if part["type"] == "refusal" else "text"
            assert event["part"] == {**part, key: text, **_logprobs(event["part"])}
            item["content"].append(event["part"])
            part = None
        elif kind == "output_item.done":
            assert part is None
            done = {key: event["item"][key] for key in item}
            changes = {"status": event["item"]["status"]} if "status" in item else {}
            assert done == {**item, **changes}
            items.append(event["item"])
            item = None
        else:  # the complete text of a part or call
            [key] = {"text", "refusal", "arguments", "input"} & event.keys()
            assert event[key] == text
            if key in item:
                item[key] = text
    assert item is None or last["type"] == "response.failed"
    response = last["response"]
    assert response["output"] == items
    assert response["status"] == STATUSES[last["type"]]
    ids = [item["id"] for item in items]
    assert len(set(ids)) == len(ids)
    assert all(item.get("status", "completed") == "completed" for item in items[:-1])


def _begin(payloads: list[Any]) -> tuple[list[Any], list[Any]]:
    """The events before the output, checked, and the others."""
    is_background = payloads[0]["response"]["background"]
    n = 3 if is_background else 2
    statuses = {event["type"].removeprefix("response."): event["response"]["status"] for event in payloads[:n]}
    if is_background:
        assert statuses == {"created": "queued", "queued": "queued", "in_progress": "in_progress"}
    else:
        assert statuses == {"created": "in_progress", "in_progress": "in_progress"}
    return payloads[:n], payloads[n:]


def _comparable(response: Any) -> Any:
    """The response without its status, and without what the backend's support decides when it begins."""
    tools = [{**tool, "strict": None} for tool in response["tools"]]
    return {**response, "status": "", "tools": tools}


def _logprobs(part: Any) -> dict[str, Any]:
    return {"logprobs": part["logprobs"]} if "logprobs" in part else {}


def _with_known_code(event: Any) -> Any:
    """The event with a code that the package lists in place of the one that only clients know."""
    if not (error := event.get("response", {}).get("error")) or error["code"] != "context_length_exceeded":
        return event
    return {**event, "response": {**event["response"], "error": {**error, "code": "invalid_prompt"}}}
