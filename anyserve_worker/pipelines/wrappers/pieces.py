"""Reads the objects that wrappers return and yield, by their attributes alone, since their classes are in packages that
may be missing. PURE.

- Text.
- Haystack's StreamingChunk: `content`, `reasoning`, `tool_calls`, `tool_call_result`, `finish_reason`, `meta`.
- OpenAI's ChatCompletion and its chunks: `choices`. hayhooks and the package openai have such classes.
- OpenAI's Response: `output`.
- Events for the page of Open WebUI or Chainlit, which have `to_event_dict`. They are no part of an answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anyserve_worker.pipelines.core.events import Usage
from protos import contract


class UnsupportedResult(TypeError):
    """An object that has no meaning in an answer. The message has its type, never its text."""


@dataclass(slots=True)
class CallDelta:
    """A part of a tool call."""

    key: tuple[int, str]
    """Index and id of the call in its turn; the id may be empty in all parts but the first."""
    id: str = ""
    """The id for the client; empty: none so far."""
    name: str = ""
    arguments: str = ""


@dataclass(slots=True)
class Piece:
    text: str = ""
    reasoning: str = ""
    refusal: str = ""
    calls: Sequence[CallDelta] = ()
    has_tool_result: bool = False
    """Whether the wrapper has called a tool itself."""
    finish_reason: str = ""
    """As the model reports it; empty: the turn goes on."""
    usage: Usage | None = None
    component: str = ""
    """Name of the pipeline's component that the piece comes from, or empty."""


def read_pieces(result: Any) -> Iterator[Piece]:
    """Raises UnsupportedResult."""
    if isinstance(result, str):
        yield Piece(result)
    elif result is None or callable(getattr(result, "to_event_dict", None)):
        return
    elif isinstance(choices := getattr(result, "choices", None), list):
        yield from _completion(result, choices)
    elif isinstance(items := getattr(result, "output", None), list):
        yield _response(result, items)
    elif hasattr(result, "content"):
        yield _streaming_chunk(result)
    else:
        raise _unsupported(result)


def _streaming_chunk(chunk: Any) -> Piece:
    content = chunk.content
    if not isinstance(content, str | None):
        raise UnsupportedResult(f"the wrapper yielded a {_name(chunk)} whose content is a {_name(content)}")
    meta = _value(chunk, "meta") or {}
    return Piece(
        text=content or "",
        reasoning=_text(_value(chunk, "reasoning"), "reasoning_text"),
        calls=[_streamed_call(call) for call in _value(chunk, "tool_calls") or ()],
        has_tool_result=_value(chunk, "tool_call_result") is not None,
        # Haystack leaves out reasons that it has no name for, such as an upstream's `error`.
        finish_reason=_text(chunk, "finish_reason") or _text(meta, "finish_reason"),
        usage=_usage(_value(meta, "usage") or _value(_value(meta, "response"), "usage")),
        component=_text(_value(chunk, "component_info"), "name"),
    )


def _streamed_call(call: Any) -> CallDelta:
    own_id = _text(call, "id")
    # Haystack's generator for the Responses API has the item's id in `id`, and the call's in `extra`.
    call_id = _text(_value(call, "extra"), "call_id") or own_id
    name = _text(call, "tool_name") or _text(call, "name")
    return CallDelta((_number(call, "index"), own_id), call_id, name, _text(call, "arguments"))


def _completion(result: Any, choices: list[Any]) -> Iterator[Piece]:
    """Chunks have a `delta`, whole answers a `message`. Without choices there may still be usage."""
    usage = _usage(_value(result, "usage"))
    if not choices:
        yield Piece(usage=usage)
    for choice in choices[:1]:
        message = _value(choice, "delta") or _value(choice, "message")
        content = _value(message, "content")
        if not isinstance(content, str | None):
            raise UnsupportedResult(f"the wrapper returned a {_name(result)} whose content is a {_name(content)}")
        yield Piece(
            text=content or "",
            reasoning=_text(message, "reasoning_content") or _text(message, "reasoning"),
            refusal=_text(message, "refusal"),
            calls=[_chat_call(call, index) for index, call in enumerate(_value(message, "tool_calls") or ())],
            finish_reason=_text(choice, "finish_reason"),
            usage=usage,
        )


def _chat_call(call: Any, index: int) -> CallDelta:
    if _value(call, "index") is not None:
        index = _number(call, "index")
    call_id = _text(call, "id")
    custom = _value(call, "custom")
    function = custom or _value(call, "function")
    return CallDelta(
        (index, call_id), call_id, _text(function, "name"), _text(function, "input" if custom else "arguments")
    )


def _response(response: Any, items: list[Any]) -> Piece:
    piece = Piece(usage=_usage(_value(response, "usage")))
    calls: list[CallDelta] = []
    for item in items:
        match _value(item, "type"):
            case "message":
                for part in _value(item, "content") or ():
                    piece.text += _text(part, "text")
                    piece.refusal += _text(part, "refusal")
            case "reasoning":
                for part in (*(_value(item, "summary") or ()), *(_value(item, "content") or ())):
                    piece.reasoning += _text(part, "text")
            case "function_call" | "custom_tool_call":
                call_id = _text(item, "call_id") or _text(item, "id")
                arguments = _text(item, "arguments") or _text(item, "input")
                calls.append(CallDelta((len(calls), call_id), call_id, _text(item, "name"), arguments))
    piece.calls = calls
    piece.finish_reason = _text(response, "status")
    if piece.finish_reason == "incomplete":
        piece.finish_reason = _text(_value(response, "incomplete_details"), "reason") or "incomplete"
    return piece


def _usage(usage: Any) -> Usage | None:
    """Reads OpenAI's names of either API. None: there are no counts."""
    prompt, completion = (
        _count(usage, "prompt_tokens", "input_tokens"),
        _count(usage, "completion_tokens", "output_tokens"),
    )
    if prompt is None or completion is None:
        return None
    prompt_details = _value(usage, "prompt_tokens_details") or _value(usage, "input_tokens_details")
    completion_details = _value(usage, "completion_tokens_details") or _value(usage, "output_tokens_details")
    return Usage(
        prompt, completion, _count(prompt_details, "cached_tokens"), _count(completion_details, "reasoning_tokens")
    )


def _value(owner: Any, name: str) -> Any:
    """An attribute, or a value of a dict; None: it is absent."""
    return owner.get(name) if isinstance(owner, dict) else getattr(owner, name, None)


def _text(owner: Any, name: str) -> str:
    value = _value(owner, name)
    return value if isinstance(value, str) else ""


def _number(owner: Any, name: str) -> int:
    value = _value(owner, name)
    return value if isinstance(value, int) else 0


def _count(owner: Any, *names: str) -> int | None:
    """None: there is none, or it is no number of tokens."""
    values = [value for name in names if type(value := _value(owner, name)) is int and 0 <= value <= contract.INT32_MAX]
    return values[0] if values else None


def _name(value: Any) -> str:
    return type(value).__qualname__


def _unsupported(result: Any) -> UnsupportedResult:
    return UnsupportedResult(
        f"the wrapper returned or yielded an object of the type {type(result).__module__}.{_name(result)}; it may be "
        "text, a StreamingChunk, a ChatCompletion, a Response, or a generator of these"
    )
