"""Limits on the lists and free-form values of a request. PURE.

They are checked before the conversion, so that a refused body costs no more than its decoding. They are far above what
agents send: their longest sessions have a few thousand messages, and OpenAI allows 128 tools. Claude Code sends more if
several MCP servers are set up.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import orjson

from openai_server.api.schemas.extras import CLIENT_FIELDS
from openai_server.core.errors import AboveLimit
from openai_server.core.messages import MAX_PARTS as MAX_PARTS
from openai_server.core.messages import MAX_TOOL_CALLS as MAX_TOOL_CALLS

MAX_TOOLS = 512
MAX_CHOICES = 2048
"""Choices of one request (prompts times `n`): the response is built in memory."""
MAX_INPUTS = 2048
"""Inputs of an embeddings request, as in OpenAI's API, or documents of a rerank request."""
MAX_GUIDE_CHOICES = 4096
"""Texts of which an answer must be one."""
MAX_MESSAGES = 8192
MAX_NESTED_VALUES = 65_536
"""JSON values in a free-form field (tool schemas, response formats, template variables), or in the arguments of all
tool calls together."""
MAX_DEPTH = 200
"""Nesting levels of a free-form field. orjson writes at most 254, and the output wraps the field in a few more."""

MAX_KEYWORD = 1 << 16
"""Characters of a field that takes one of a few keywords."""
KEYWORD_FIELDS = frozenset(
    {
        *("clear_at", "display", "effort", "encoding_format", "function_call", "generate_summary", "mode", "phase"),
        *(
            "pooling",
            "reasoning_effort",
            "role",
            "service_tier",
            "summary",
            "syntax",
            "tool_choice",
            "truncation",
            "type",
        ),
        "verbosity",
    }
)
"""Fields that take one of a few keywords. msgspec quotes any other string in its error, in time that grows with the
string's length."""
_DATA = frozenset(
    ("arguments", "chat_template_kwargs", "guided_json", "json", "json_schema", "metadata", "parameters", "schema")
)
"""Fields whose objects may have any keys."""

FREE_FORM = (
    *("tools", "functions", "response_format", "json_schema", "guided_json", "structured_outputs"),
    *("chat_template_kwargs", "output_config", "output_format"),
    *(*CLIENT_FIELDS, "prediction"),
)
Place: TypeAlias = "tuple[Place, str | int] | None"
"""The path of a value: the place of its container, and its key there. None is the body."""
_SMALLEST_ITEM = 20
"""Minimum bytes of a content part or tool call."""
ORJSON_DEPTH = 254


def check_keywords(payload: Mapping[str, Any], body_size: int) -> None:
    """Raises AboveLimit, which names the field, for a keyword that is too long."""
    if body_size <= MAX_KEYWORD:
        return
    pending: list[tuple[Any, Place]] = [(payload, None)]
    while pending:
        value, place = pending.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                if key in KEYWORD_FIELDS and isinstance(item, str) and len(item) > MAX_KEYWORD:
                    raise AboveLimit(path_of((place, key)), f"has more than {MAX_KEYWORD} characters", kind="string")
                if isinstance(item, dict | list) and key not in _DATA:
                    pending.append((item, (place, key)))
        else:
            pending.extend((item, (place, i)) for i, item in enumerate(value) if isinstance(item, dict))


def path_of(place: "Place") -> str:
    """The path as text, such as `messages[0].role`."""
    keys: list[str | int] = []
    while place is not None:
        place, key = place
        keys.append(key)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in reversed(keys)).removeprefix(".")


def check_messages(messages: object, body_size: int) -> None:
    """Counts the parts, calls and arguments of all messages together. Raises AboveLimit. Accepts values of any type."""
    if not isinstance(messages, list) or body_size < _SMALLEST_ITEM * min(MAX_PARTS, MAX_TOOL_CALLS):
        return
    _check_length("messages", messages, MAX_MESSAGES)
    n_parts = n_calls = n_argument_values = 0
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            continue
        if isinstance(parts := message.get("content"), list):
            n_parts += len(parts)
            if n_parts > MAX_PARTS:
                raise _above(f"messages[{i}].content", f"content parts in all messages together, at most {MAX_PARTS}")
        if isinstance(calls := message.get("tool_calls"), list):
            n_calls += len(calls)
            if n_calls > MAX_TOOL_CALLS:
                raise _above(
                    f"messages[{i}].tool_calls", f"tool calls in all messages together, at most {MAX_TOOL_CALLS}"
                )
            for j, call in enumerate(calls):
                n_argument_values += _argument_values(call)
                if n_argument_values > MAX_NESTED_VALUES:
                    raise too_many_values(f"messages[{i}].tool_calls[{j}].function.arguments")
        n_argument_values += _argument_values({"function": message.get("function_call")})
        if n_argument_values > MAX_NESTED_VALUES:
            raise too_many_values(f"messages[{i}].function_call.arguments")


def check_free_form(payload: Mapping[str, Any], body_size: int, fields: Sequence[str] = FREE_FORM) -> None:
    """Raises AboveLimit for a free-form field that nests too deeply or has too many values."""
    if payload.keys().isdisjoint(fields):
        return
    for field in fields:
        value = payload.get(field)
        if not isinstance(value, dict | list):
            continue
        for _ in range(ORJSON_DEPTH - MAX_DEPTH):
            value = [value]
        try:
            text = orjson.dumps(value)
        except TypeError:  # the only reason that decoded JSON can't be written
            raise _above(field, f"nested levels, at most {MAX_DEPTH}") from None
        if body_size > MAX_NESTED_VALUES and n_values(text) > MAX_NESTED_VALUES:
            raise too_many_values(field)


def check_nested_text(field: str, text: str) -> None:
    """Raises AboveLimit for a JSON text with too many values."""
    if n_values(text.encode(errors="surrogatepass")) > MAX_NESTED_VALUES:
        raise too_many_values(field)


def check_prompts(field: str, prompts: object, limit: int) -> None:
    """Raises AboveLimit for a list of more than `limit` prompts. A list of token ids is one prompt."""
    if isinstance(prompts, list) and len(prompts) > limit and not all(type(item) in (int, float) for item in prompts):
        _check_length(field, prompts, limit)


def _check_length(field: str, items: list[Any], limit: int) -> None:
    if len(items) > limit:
        raise _above(field, f"items, at most {limit}")


def _argument_values(call: object) -> int:
    """Number of JSON values in the text of a call's arguments. Up to the limit, commas inside strings count too."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return n_values(arguments.encode(errors="surrogatepass")) if isinstance(arguments, str) else 0


def n_values(text: bytes) -> int:
    """Number of JSON values in a JSON text. Up to MAX_NESTED_VALUES, commas inside strings count too."""
    n = text.count(b",") + text.count(b"[") + text.count(b"{")
    if n <= MAX_NESTED_VALUES:
        return n
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{")


def too_many_values(field: str) -> AboveLimit:
    return _above(field, f"JSON values, at most {MAX_NESTED_VALUES}")


def _above(field: str, problem: str) -> AboveLimit:
    return AboveLimit(field, f"has too many {problem}", kind="array")
