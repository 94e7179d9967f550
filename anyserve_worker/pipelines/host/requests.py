"""Reads a request from its frame. PURE.

The worker checked the tensors and passed their bytes on; the JSON in them is checked here.
"""

import json
from typing import Any

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.frames import Frame
from anyserve_worker.pipelines.core.request import ChatRequest, Json
from protos import contract
from protos.contract import TensorSpec

MAX_CHOICES = 128


class InvalidTensor(InvalidInput):
    """`tensor` is the name of the input that is wrong."""

    def __init__(self, spec: TensorSpec, problem: str, field: str = "") -> None:
        super().__init__(f"tensor '{spec.name}': {problem}", field=field)
        self.tensor = spec.name


def read_request(frame: Frame) -> ChatRequest:
    """Raises InvalidTensor."""
    header = frame.header
    parts = list(frame.parts)
    n_messages = header["messages"]
    messages = _messages(parts[:n_messages])
    rest = parts[n_messages:]
    body: Json = {}
    if header["has_body"]:
        body = _object(contract.BODY, _parse(contract.BODY, rest.pop(0)), "it")
    items = _input_items(rest.pop(0)) if header["has_items"] else None
    body.setdefault("model", header["model"])
    body["messages"] = messages
    body.setdefault("stream", header["streams"])  # a sidecar reads whole answers from a stream too
    _check(body)
    return ChatRequest(header["model"], messages, body, items, header["caller"], header["headers"])


def _messages(parts: list[bytes]) -> list[Json]:
    spec = contract.MESSAGES
    if not parts:
        raise InvalidTensor(spec, "it is empty")
    values = [_parse(spec, part) for part in parts]
    messages: list[Any] = values[0] if len(values) == 1 and isinstance(values[0], list) else values
    if not messages:
        raise InvalidTensor(spec, "it has no message")
    for number, message in enumerate(messages):
        _object(spec, message, f"message {number}")
        if not isinstance(message.get("role"), str):
            raise InvalidTensor(spec, f"message {number} has no role")
    return messages


def _input_items(part: bytes) -> list[Json]:
    spec = contract.INPUT_ITEMS
    items = _parse(spec, part)
    if not isinstance(items, list):
        raise InvalidTensor(spec, "it must be a JSON array")
    return [_object(spec, item, f"item {number}") for number, item in enumerate(items)]


def _check(body: Json) -> None:
    """Checks the fields that every kind of pipeline reads."""
    n = body.get("n")
    if n is not None and (type(n) is not int or not 1 <= n <= MAX_CHOICES):
        raise InvalidTensor(contract.BODY, f"n must be a whole number from 1 to {MAX_CHOICES}", "n")
    if type(body["stream"]) is not bool:
        raise InvalidTensor(contract.BODY, "stream must be true or false", "stream")
    tools = body.get("tools")
    if tools is not None and not (isinstance(tools, list) and all(map(_has_type, tools))):
        raise InvalidTensor(contract.BODY, "tools must be an array of objects", "tools")
    for name in ("tool_choice", "response_format"):
        value = body.get(name)
        if not (value is None or _has_type(value) or (name == "tool_choice" and isinstance(value, str))):
            raise InvalidTensor(contract.BODY, f"{name} must be an object, as in OpenAI's chat", name)


def _has_type(value: Any) -> bool:
    """Whether this is an object with a `type`, and what is under the type's name is an object too."""
    if not isinstance(value, dict):
        return False
    kind = value.get("type", "")
    return isinstance(kind, str) and isinstance(value.get(kind), dict | None)


def _object(spec: TensorSpec, value: Any, subject: str) -> Json:
    if not isinstance(value, dict):
        raise InvalidTensor(spec, f"{subject} must be a JSON object")
    return value


def _parse(spec: TensorSpec, part: bytes) -> Any:
    try:
        return json.loads(part, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidTensor(spec, "it is not JSON") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
