"""How many items each list of a request may have, and how large its free-form values may be. PURE.

Checked before anything is converted, so that a refusal costs no more than the decoding. Far above what agents send:
their longest sessions have some thousand messages, their largest tool lists 128 tools.
"""

from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson

from openai_server.core.errors import AboveLimit
from openai_server.core.messages import MAX_PARTS as MAX_PARTS
from openai_server.core.messages import MAX_TOOL_CALLS as MAX_TOOL_CALLS

MAX_TOOLS = 128
MAX_CHOICES = 2048
"""Choices of one request, prompts times `n`: the answer is built in memory."""
MAX_INPUTS = 2048
"""Inputs of embeddings and documents of rerank, as in OpenAI's API."""
MAX_MESSAGES = 8192
MAX_NESTED_VALUES = 65_536
"""JSON values in a free-form field (schemas of tools, of formats, variables of templates), and in the arguments of all
tool calls together."""
MAX_DEPTH = 200
"""Levels of a free-form field. orjson writes 254, and what is made of a field has some around it."""

MAX_WORD = 1 << 16
"""Characters of a field that takes one of few words."""
WORDS = frozenset(
    ("encoding_format", "function_call", "mode", "pooling", "reasoning_effort", "role", "tool_choice", "type")
)
"""Fields that take one of few words. For another string msgspec writes an error that quotes it, in time that grows with
its length."""
_DATA = frozenset(("arguments", "chat_template_kwargs", "json_schema", "metadata", "parameters", "schema"))
"""Fields whose content may have any keys."""

FREE_FORM = ("tools", "functions", "response_format", "json_schema", "chat_template_kwargs")
_FREE_FORM = frozenset(FREE_FORM)
Place: TypeAlias = "tuple[Place, str | int] | None"
"""A value's place: the place of its container, and its key there. None is the body."""
_SMALLEST_ITEM = 20
"""Bytes that a content part or tool call takes at least."""
_ORJSON_DEPTH = 254


def check_words(given: Mapping[str, Any], body_size: int) -> None:
    """Raises AboveLimit, naming the field."""
    if body_size <= MAX_WORD:
        return
    rest: list[tuple[Any, Place]] = [(given, None)]
    while rest:
        value, place = rest.pop()
        if isinstance(value, dict):
            for key, item in value.items():
                if key in WORDS and isinstance(item, str) and len(item) > MAX_WORD:
                    raise AboveLimit(path_of((place, key)), f"has more than {MAX_WORD} characters", of="string")
                if isinstance(item, dict | list) and key not in _DATA:
                    rest.append((item, (place, key)))
        else:
            rest.extend((item, (place, i)) for i, item in enumerate(value) if isinstance(item, dict))


def path_of(place: "Place") -> str:
    """Such as `messages[0].role`."""
    keys: list[str | int] = []
    while place is not None:
        place, key = place
        keys.append(key)
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in reversed(keys)).removeprefix(".")


def check_messages(messages: object, body_size: int) -> None:
    """Counts what the messages hold together. Raises AboveLimit. The types may be anything."""
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
                raise _above(f"messages[{i}].content", f"content parts, all messages together, at most {MAX_PARTS}")
        if isinstance(calls := message.get("tool_calls"), list):
            n_calls += len(calls)
            if n_calls > MAX_TOOL_CALLS:
                raise _above(
                    f"messages[{i}].tool_calls", f"tool calls, all messages together, at most {MAX_TOOL_CALLS}"
                )
            for j, call in enumerate(calls):
                n_argument_values += _argument_values(call)
                if n_argument_values > MAX_NESTED_VALUES:
                    raise _too_many_values(f"messages[{i}].tool_calls[{j}].function.arguments")
        n_argument_values += _argument_values({"function": message.get("function_call")})
        if n_argument_values > MAX_NESTED_VALUES:
            raise _too_many_values(f"messages[{i}].function_call.arguments")


def check_free_form(given: Mapping[str, Any], body_size: int) -> None:
    """Raises AboveLimit."""
    if _FREE_FORM.isdisjoint(given):
        return
    for field in FREE_FORM:
        value = given.get(field)
        if not isinstance(value, dict | list):
            continue
        for _ in range(_ORJSON_DEPTH - MAX_DEPTH):
            value = [value]
        try:
            text = orjson.dumps(value)
        except TypeError:  # the only reason that decoded JSON can't be written
            raise _above(field, f"nested levels, at most {MAX_DEPTH}") from None
        if body_size > MAX_NESTED_VALUES and _n_values(text) > MAX_NESTED_VALUES:
            raise _too_many_values(field)


def check_prompts(field: str, prompts: object, most: int) -> None:
    """For a list of prompts, which a list of token ids is not. Raises AboveLimit."""
    if isinstance(prompts, list) and len(prompts) > most and not all(type(item) in (int, float) for item in prompts):
        _check_length(field, prompts, most)


def _check_length(field: str, items: list[Any], most: int) -> None:
    if len(items) > most:
        raise _above(field, f"items, at most {most}")


def _argument_values(call: object) -> int:
    """JSON values in the text that holds a call's arguments. Those inside its strings count if there are few."""
    function = call.get("function") if isinstance(call, dict) else None
    arguments = function.get("arguments") if isinstance(function, dict) else None
    return _n_values(arguments.encode(errors="surrogatepass")) if isinstance(arguments, str) else 0


def _n_values(text: bytes) -> int:
    n = text.count(b",") + text.count(b"[") + text.count(b"{")
    if n <= MAX_NESTED_VALUES:
        return n
    outside = b"".join(text.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    return outside.count(b",") + outside.count(b"[") + outside.count(b"{")


def _too_many_values(field: str) -> AboveLimit:
    return _above(field, f"JSON values, at most {MAX_NESTED_VALUES}")


def _above(field: str, problem: str) -> AboveLimit:
    return AboveLimit(field, f"has too many {problem}", of="array")
