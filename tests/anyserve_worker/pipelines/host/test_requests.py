"""Requests as the process reads them from their frames."""

import json
from typing import Any

import pytest

from anyserve_worker.pipelines.core.frames import Frame
from anyserve_worker.pipelines.host.requests import InvalidTensor, read_request

MESSAGE = {"role": "user", "content": "hi"}


def frame(messages: list[Any], body: Any = None, items: Any = None, *, streams: bool = False, **fields: Any) -> Frame:
    parts = [json.dumps(part).encode() for part in (*messages, *([] if body is None else [body]))]
    parts += [] if items is None else [json.dumps(items).encode()]
    header = {
        "model": "m",
        "caller": "someone",
        "headers": {"x-request-id": "7"},
        "streams": streams,
        "messages": len(messages),
        "has_body": body is not None,
        "has_items": items is not None,
    }
    return Frame(header | fields, parts)


def test_a_request_without_a_body_has_a_minimal_one() -> None:
    request = read_request(frame([[MESSAGE]], streams=True))
    assert request.body == {"model": "m", "messages": [MESSAGE], "stream": True}
    assert (request.model, request.caller, request.headers) == ("m", "someone", {"x-request-id": "7"})
    assert (request.streams, request.n, request.tools, request.input_items) == (True, 1, (), None)


def test_the_body_keeps_its_fields_and_gets_the_messages_of_the_tensor() -> None:
    body = {"model": "alias", "messages": [], "stream": True, "n": 2, "tools": [{"type": "function"}], "user": "u"}
    request = read_request(frame([[MESSAGE]], body))
    assert request.body == body | {"messages": [MESSAGE]}
    assert request.streams
    assert (request.n, list(request.tools)) == (2, [{"type": "function"}])


def test_messages_may_be_one_array_or_an_object_each() -> None:
    assert read_request(frame([[MESSAGE, MESSAGE]])).messages == [MESSAGE, MESSAGE]
    assert read_request(frame([MESSAGE])).messages == [MESSAGE]
    assert read_request(frame([MESSAGE, MESSAGE])).messages == [MESSAGE, MESSAGE]


def test_input_items_are_read() -> None:
    assert read_request(frame([[MESSAGE]], items=[])).input_items == []
    assert read_request(frame([[MESSAGE]], {}, [{"type": "message"}])).input_items == [{"type": "message"}]


@pytest.mark.parametrize(
    ("wrong", "tensor", "field"),
    [
        (frame([[MESSAGE], [MESSAGE]]), "messages", ""),
        (frame(["text"]), "messages", ""),
        (frame([[MESSAGE]], 1), "body", ""),
        (frame([[MESSAGE]], {"n": True}), "body", "n"),
        (frame([[MESSAGE]], {"stream": 1}), "body", "stream"),
        (frame([[MESSAGE]], {"n": 129}), "body", "n"),
        (frame([[MESSAGE]], {"n": "1"}), "body", "n"),
        (frame([[MESSAGE]], {"tools": {}}), "body", "tools"),
        (frame([[MESSAGE]], {"tools": [1]}), "body", "tools"),
        (frame([[MESSAGE]], {"tools": [{"type": []}]}), "body", "tools"),
        (frame([[MESSAGE]], {"tools": [{"type": "function", "function": 5}]}), "body", "tools"),
        (frame([[MESSAGE]], {"tool_choice": 5}), "body", "tool_choice"),
        (frame([[MESSAGE]], {"response_format": "json"}), "body", "response_format"),
        (frame([[MESSAGE]], items={}), "input_items", ""),
        (frame([[MESSAGE]], items=["text"]), "input_items", ""),
    ],
)
def test_wrong_values_are_refused_by_tensor_and_field(wrong: Frame, tensor: str, field: str) -> None:
    with pytest.raises(InvalidTensor) as caught:
        read_request(wrong)
    assert (caught.value.tensor, caught.value.field) == (tensor, field)
