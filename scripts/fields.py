"""The tables of request fields for docs/fields.md, from the code: type and range, tensor, backends; and the fields of
the objects in them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec
from msgspec import Struct

from openai_server.api import schemas, schemas_tasks
from openai_server.api.messages.fields import MESSAGES_FIELDS
from openai_server.api.messages.schema import MessagesRequest
from openai_server.api.registry import ENDPOINTS
from openai_server.api.responses.input.body import MAX_INPUT_ITEMS, ResponsesBody
from openai_server.api.responses.input.fields import RESPONSES_FIELDS
from openai_server.api.schemas import ChatRequest, CompletionRequest, Fields, GenerationFields, GuideFields, ListOf
from openai_server.api.schemas.extras import CLIENT_FIELDS
from openai_server.api.schemas.requests import COMPLETION_NAMES
from openai_server.api.schemas.tables import Table, Variants
from openai_server.backends.dialects.inputs import INPUT_ROWS

Row = tuple[str, ...]
HEADER = "field | type, range | becomes | backends"
MESSAGES_OBJECTS_HEADER = "object | fields | without effect"
OBJECTS_HEADER = "object | fields | without effect | only with this value, or null"
NEUTRAL_HEADER = "field | value | endpoints"
TABLES = {
    request.name: request.fields
    for endpoint in ENDPOINTS
    if (description := endpoint.described())
    for request in description.requests
}
"""Tables of the fields of all requests, by the name of the request's form."""

OWN_TABLES = ("completions", "chat", "responses", "messages", "messages/count_tokens")
"""Names of the forms with a table of their own in docs/fields.md; the fifth has those fields of the fourth that
determine the prompt."""

# The column `becomes` of fields that are not one sampling tensor.
OTHERWISE = {
    "model": "`model_name`; absent: the first served model",
    "prompt": "`prompt`, or `prompt_token_ids`; one call a prompt",
    "messages": "`prompt`, rendered with the model's chat template",
    "max_completion_tokens": "`max_tokens`",
    **dict.fromkeys((*CLIENT_FIELDS, "prediction"), "a field of `body`; nothing elsewhere"),
    "service_tier": "`flex`, `priority` (also `fast`, `ultrafast`): the place in the queue, and `priority`; a field of "
    "`body`",
    "verbosity": "a field of `body`; elsewhere only `medium`, which is nothing",
    "repeat_penalty": "`repetition_penalty`",
    "response_format": "`json_schema`; `lenient_schema`, unless `strict`",
    "json_schema": "`json_schema`, `lenient_schema`",
    "guided_json": "as `json_schema`",
    "guided_regex": "`regex`",
    "guided_choice": "`regex`",
    "grammar": "`grammar`; `lark`, if it begins with `%llguidance`",
    "ebnf": "`grammar` if it is GBNF, else `lark`",
    "guided_grammar": "as `ebnf`",
    "guided_whitespace_pattern": "with a JSON Schema: `lark`, instead of `json_schema`",
    "structured_outputs": "as the `guided_` field of the same name; with an option for JSON, `lark`",
    "top_logprobs": "`logprobs`",
    "best_of": "`n`, of which the likeliest are returned",
    "stream": "`ModelStreamInfer` instead of `ModelInfer`",
    "timings_per_token": "`timings`; the response and each chunk have their times",
    "return_progress": "`prompt_progress`; a stream has a chunk for each step that reads a part of the prompt",
    "stream_options": "with `include_usage`, a chunk with the counts",
    "tools": "the template's `tools`, and the format in which the answer is parsed",
    "tool_choice": "`lark`, where a call is required or a schema strict",
    "parallel_tool_calls": "whether `lark` allows several",
    "functions": "as `tools`; the response has `function_call`",
    "function_call": "as `tool_choice`",
    "reasoning_effort": "the template's variable of this name; `none`, without it: as `enable_thinking` false",
    "add_generation_prompt": "the template's variable of this name",
    "continue_final_message": "the prompt ends with the last message, which the model continues",
    "chat_template_kwargs": "more variables of the template",
    "enable_thinking": "the template's variable of this name; false, without the variable: `max_marked_tokens` 0",
    "thinking_token_budget": "`max_marked_tokens`",
    "reasoning_budget_tokens": "`max_marked_tokens`",
    "thinking_budget_tokens": "`max_marked_tokens`",
    "system": "`prompt`, before the messages",
    "stop_sequences": "`stop`, and `include_stop` to report which one ended the answer",
    "thinking": "as `enable_thinking` in chats; `budget_tokens`: `max_marked_tokens`",
    "output_config": "`effort`: the template's variable `reasoning_effort`; `format`: `json_schema`",
    "output_format": "`json_schema`",
}
MESSAGES_TYPES = {
    "messages": f"array of up to {schemas.bounds.MAX_MESSAGES} [messages](#objects-in-v1messages)",
    "system": "string or array of [text blocks](#objects-in-v1messages)",
    "tools": f"array of up to {schemas.bounds.MAX_TOOLS} [tools](#objects-in-v1messages)",
    "tool_choice": "{`type`: `auto`, `any`, `tool` or `none`, `name`, `disable_parallel_tool_use`}",
    "thinking": "{`type`: `enabled`, `adaptive`, `between_tools` or `disabled`, `budget_tokens` 1024…2³¹-1, `display`}",
}
MESSAGES_OTHERWISE = {"metadata": "`user_id`: `user` of `body`; nothing elsewhere"}
"""The column `becomes` of `/v1/messages`, where it differs."""
RESPONSES_OTHERWISE = {
    "input": "`prompt`: the items as messages, rendered with the model's chat template",
    "instructions": "a system message before the input",
    "max_output_tokens": "`max_tokens`",
    "text": "`format`: `json_schema`; `lenient_schema`, unless `strict`. `verbosity`: the response; a field of `body`",
    "reasoning": "`effort`: the template's variable `reasoning_effort`, if it has one. `summary` has no effect",
    "include": "with `message.output_text.logprobs`: `logprobs`. With `reasoning.encrypted_content`, reasoning has it",
    "stream_options": "nothing: it has no effect",
    "max_tool_calls": "the response; no tool runs on the server",
    "truncation": "`auto`: the oldest messages of a conversation that does not fit are dropped",
    "store": "whether the response is stored; absent: if the server has a store",
    "background": "`true`: the response is generated without a client that waits for it; needs a store",
    "previous_response_id": "that response's history, input and output, before the input; needs a store",
    "conversation": "the conversation's items before the input; input and output are appended to it; needs a store",
    **dict.fromkeys(("metadata", "safety_identifier", "prompt_cache_key", "user"), "the response; a field of `body`"),
}
"""The column `becomes` of `/v1/responses`, where it differs."""
RESPONSES_BACKENDS = dict.fromkeys(("metadata", "prompt_cache_key", "safety_identifier", "store", "user"), "all")
"""The column `backends` of `/v1/responses`, where it differs."""
RESPONSES_TYPES = {"tools": f"array of up to {schemas.bounds.MAX_TOOLS} [tools](#objects-in-requests)"}
"""The column `type, range` of `/v1/responses`, where it differs."""
TYPES = {
    "messages": f"array of up to {schemas.bounds.MAX_MESSAGES} [messages](#objects-in-requests)",
    "input": f"string or array of up to {MAX_INPUT_ITEMS} [items](#objects-in-requests)",
}
ALL, WITH_TENSOR = "all", "ours; others that take the tensor"
TAKING_CHATS = "those that take chats"
BACKENDS = {
    **dict.fromkeys((*CLIENT_FIELDS, "prediction", "verbosity"), TAKING_CHATS),
    "service_tier": ALL,
    "max_completion_tokens": WITH_TENSOR,
    "max_output_tokens": WITH_TENSOR,
    "repeat_penalty": WITH_TENSOR,
    **dict.fromkeys(
        ("response_format", "structured_outputs", "ebnf", *(f"guided_{name}" for name in ("json", "regex", "choice"))),
        WITH_TENSOR,
    ),
    "guided_grammar": WITH_TENSOR,
    "guided_whitespace_pattern": WITH_TENSOR,
    "top_logprobs": WITH_TENSOR,
    "best_of": "ours; others that take `n` and `logprobs`",
    **dict.fromkeys(("thinking_token_budget", "reasoning_budget_tokens", "thinking_budget_tokens"), WITH_TENSOR),
    **dict.fromkeys(("stop_sequences", "output_format"), WITH_TENSOR),
    "output_config": "all; `format`: ours, and others that take the tensor",
    "thinking": "all; `budget_tokens`: ours, and others that take the tensor",
    "tool_choice": "all; to require a call, ours and others that take `lark`",
    "function_call": "all; to require a call, ours and others that take `lark`",
}
"""The column `backends` of fields for which the tensor alone does not determine it."""
_TENSORS = {COMPLETION_NAMES.get(row.field, row.field): row.tensor for row in INPUT_ROWS}


def completions() -> list[Row]:
    return list(_rows(CompletionRequest, schemas.COMPLETION_FIELDS))


def chat() -> list[Row]:
    return list(_rows(ChatRequest, schemas.CHAT_FIELDS))


def responses() -> list[Row]:
    return list(_rows(ResponsesBody, RESPONSES_FIELDS, RESPONSES_OTHERWISE, RESPONSES_TYPES, RESPONSES_BACKENDS))


def messages() -> list[Row]:
    return list(_rows(MessagesRequest, MESSAGES_FIELDS, MESSAGES_OTHERWISE, MESSAGES_TYPES))


def _rows(
    struct: type[Struct],
    fields: Fields,
    otherwise: Mapping[str, str] = MappingProxyType({}),
    types: Mapping[str, str] = MappingProxyType({}),
    backends: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Row]:
    """The rows of one request. `otherwise`, `types` and `backends` replace OTHERWISE, TYPES and
    BACKENDS."""
    _, components = msgspec.json.schema_components([struct])
    properties = components[struct.__name__]["properties"]
    names = [name for name in properties if name in fields.mapped]
    shared = (GenerationFields.__struct_fields__, GuideFields.__struct_fields__)
    for name in sorted(names, key=lambda name: sum(name in names for names in shared)):
        schema = properties[name]
        tensor = _TENSORS.get(name)
        becomes = otherwise.get(name) or OTHERWISE.get(name) or (f"`{tensor.name}` {tensor.datatype}" if tensor else "")
        assert becomes, f"{name} has neither a tensor nor a description"
        yield (
            f"`{name}`",
            types.get(name) or TYPES.get(name) or _type(schema, components),
            becomes,
            backends.get(name) or BACKENDS.get(name, WITH_TENSOR if tensor else ALL),
        )
    for name in sorted(fields.no_effect):
        yield f"`{name}`", "anything", "nothing: it has no effect", ALL


def neutral() -> list[Row]:
    """Fields that accept a single value, or only null: field, value, endpoints."""
    endpoints: dict[tuple[str, str], list[str]] = {}
    for endpoint, fields in TABLES.items():
        for name, values in fields.neutral.items():
            endpoints.setdefault((f"`{name}`", _values(values)), []).append(endpoint)
    only_null: dict[str, list[str]] = {}
    for (name, values), places in sorted(endpoints.items()):
        if not values:
            only_null.setdefault(", ".join(places), []).append(name)
    with_value = [(name, values, ", ".join(places)) for (name, values), places in sorted(endpoints.items()) if values]
    return [*with_value, *((", ".join(names), "", places) for places, names in only_null.items())]


def objects() -> list[Row]:
    """The objects in requests, wherever they are."""
    tables = (schemas.CHAT_FIELDS, RESPONSES_FIELDS, schemas_tasks.RERANK_FIELDS)
    places = {place: fields for table in tables for place, fields in _places("", "", table)}
    return [(place, *_keys(fields)) for place, fields in places.items() if place]


def messages_objects() -> list[Row]:
    """The objects in requests of the Messages API. All accept further keys, without effect."""
    places: dict[int, tuple[str, Fields]] = {}  # by the table, which several places may share
    for place, fields in _places("", "", MESSAGES_FIELDS):
        places.setdefault(id(fields), (place, fields))
    return [(place, *_keys(fields)[:2]) for place, fields in places.values() if place]


def _places(path: str, kind: str, table: Table) -> Iterator[tuple[str, Fields]]:
    match table:
        case Fields():
            yield path and f"`{path}`{kind}", table
            for name, nested in table.nested.items():
                yield from _places(f"{path}.{name}" if path else name, "", nested)
        case ListOf(table=item):
            yield from _places(f"{path}[]", "", item)
        case Variants(tag=tag, tables=tables):
            for value, item in tables.items():
                yield from _places(path, f", `{tag}` {value}", item)


def _keys(fields: Fields) -> Row:
    with_value = (f"`{name}`: {_values(values)}" for name, values in sorted(fields.neutral.items()) if values)
    only_null = _names(name for name, values in fields.neutral.items() if not values)
    return _names(fields.mapped), _names(fields.no_effect), "; ".join(filter(None, (*with_value, only_null)))


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(names))


def _values(values: Sequence[object]) -> str:
    return ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in values)


def _type(schema: Mapping[str, Any], components: Mapping[str, Any]) -> str:
    """The type in words, without null, which is the same as no field."""
    if "anyOf" in schema:
        return " or ".join(_type(option, components) for option in schema["anyOf"] if option.get("type") != "null")
    if "$ref" in schema:
        return _type(components[schema["$ref"].rpartition("/")[2]], components)
    if "enum" in schema:
        return ", ".join(f"`{msgspec.json.encode(value).decode()}`" for value in schema["enum"])
    kind = str(schema.get("type", "anything"))
    if kind == "array":
        most = f"up to {schema['maxItems']} " if "maxItems" in schema else ""
        return f"array of {most}{_type(schema['items'], components)}"
    if kind == "object" and "properties" in schema:
        return "{" + ", ".join(f"`{name}`" for name in schema["properties"]) + "}"
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is None and high is None:
        return kind
    return f"{kind} {_bound(low)}…{_bound(high)}"


def _bound(value: float | None) -> str:
    if value is None:
        return ""
    for power in (31, 63):
        if abs(value + 0.5) == 2**power - 0.5 or value == 2**power - 1:
            return f"-2{_SUPER[power]}" if value < 0 else f"2{_SUPER[power]}-1"
    return f"{value:g}"


_SUPER = {31: "³¹", 63: "⁶³"}
