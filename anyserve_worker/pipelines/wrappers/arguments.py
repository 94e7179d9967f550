"""The arguments of a wrapper's methods. PURE."""

from collections.abc import Iterator, Mapping
from typing import Any

from anyserve_worker.pipelines.core.errors import InvalidInput
from anyserve_worker.pipelines.core.request import ChatRequest, Json
from protos import contract

_TOKEN_LIMITS = ("max_completion_tokens", "max_tokens")


def task_of(request: ChatRequest, tasks: Mapping[str, Any]) -> str:
    """The task of the request. Raises InvalidInput if the wrapper doesn't have it."""
    task = contract.TASK_CHAT if request.input_items is None else contract.TASK_RESPONSES
    if task not in tasks:
        problem = "is required by" if request.input_items is None else "can't be used with"
        raise InvalidInput(
            f"{contract.INPUT_ITEMS.name} {problem} this model, which has the task {next(iter(tasks))}.",
            field=contract.INPUT_ITEMS.name,
        )
    return task


def arguments(request: ChatRequest) -> dict[str, Any]:
    """The values that the method may take, by name, without headers."""
    if request.input_items is None:
        return {"model": request.model, "messages": request.messages, "body": request.body}
    return {"model": request.model, "input_items": request.input_items, "body": responses_body(request)}


def responses_body(request: ChatRequest) -> Json:
    """The request in the form of OpenAI's Responses API. Fields that only the chat has keep their names."""
    body = {name: value for name, value in request.body.items() if name != "messages"}
    body["input"] = request.input_items
    limits = [value for name in _TOKEN_LIMITS if (value := body.pop(name, None)) is not None]
    if limits:
        body["max_output_tokens"] = limits[0]
    if (effort := body.pop("reasoning_effort", None)) is not None:
        body["reasoning"] = {"effort": effort}
    if text := dict(_text_fields(body.pop("response_format", None), body.pop("verbosity", None))):
        body["text"] = text
    if tools := body.get("tools"):
        body["tools"] = [_flat(tool) for tool in tools]
    if isinstance(choice := body.get("tool_choice"), dict):
        body["tool_choice"] = _flat(choice)
        if tools := body["tool_choice"].get("tools"):
            body["tool_choice"]["tools"] = [_flat(tool) for tool in tools]
    return body


def _text_fields(response_format: Json | None, verbosity: str | None) -> Iterator[tuple[str, Any]]:
    if response_format is not None:
        yield "format", _flat(response_format)
    if verbosity is not None:
        yield "verbosity", verbosity


def _flat(value: Json) -> Json:
    """The chat's `{"type": "function", "function": {...}}` as `{"type": "function", ...}`."""
    kind = value.get("type", "")
    inner = value.get(kind)
    if not isinstance(inner, dict):
        return value
    flat = {"type": kind, **inner}
    if isinstance(format := flat.get("format"), dict):  # of a custom tool
        flat["format"] = _flat(format)
    return flat
