"""Parses bodies of `/v1/responses`."""

import json
from typing import Any

import pytest

from openai_server.access.caps import Caps
from openai_server.api.responses.request import parse
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.core.errors import InvalidRequest
from openai_server.core.messages import Message

Json = dict[str, Any]
NO_CAPS = Caps()


def parsed(**body: Any) -> ResponsesRequest:
    return parse(json.dumps({"input": "x", **body}).encode(), NO_CAPS)


def messages(*items: Json, **body: Any) -> list[Message]:
    return list(parsed(input=items, **body).turn.messages)


def rejection(param: str | None, **body: Any) -> InvalidRequest:
    """Returns the error, whose `param` must be the given one and in the message."""
    with pytest.raises(InvalidRequest) as raised:
        parsed(**body)
    assert raised.value.param == param
    assert param is None or param in raised.value.message
    return raised.value


def user(text: str = "x") -> Json:
    return {"role": "user", "content": text}


def assistant(*texts: str, **more: Any) -> Json:
    parts = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []} for text in texts]
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": parts, **more}


def call(id: str = "call_1", name: str = "f", arguments: Any = "{}", **more: Any) -> Json:
    return {"type": "function_call", "id": "fc_1", "call_id": id, "name": name, "arguments": arguments, **more}


def result(id: str = "call_1", output: Any = "done") -> Json:
    return {"type": "function_call_output", "call_id": id, "output": output}


def reasoning(text: str | None = None, sealed: str | None = None, summary: str | None = None) -> Json:
    content = None if text is None else [{"type": "reasoning_text", "text": text}]
    summaries = [] if summary is None else [{"type": "summary_text", "text": summary}]
    return {"type": "reasoning", "id": "rs_1", "summary": summaries, "content": content, "encrypted_content": sealed}


def function(name: str = "f", /, **more: Any) -> Json:
    return {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}, **more}


def namespace(name: str, *tools: Json, description: str = "Tools.") -> Json:
    return {"type": "namespace", "name": name, "description": description, "tools": tools}
