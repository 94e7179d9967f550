"""The OpenAPI 3.1 document, made from the entries of the registry. PURE.

Requests are described by the Structs and `Fields` tables that check them, answers by the Structs that are sent, errors
by the table of gRPC statuses and the types of errors. Imported when the document is first requested, as it takes some
memory.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
import orjson
from msgspec import Struct, inspect

from openai_server import __version__
from openai_server.api.endpoint import Description, Endpoint
from openai_server.api.examples import MODEL
from openai_server.api.schemas import Each, Fields
from openai_server.api.schemas.tables import Entries, Table, Variants
from openai_server.api.schemas_tasks import MessagesToTokenize
from openai_server.core.errors import Error

Json = dict[str, Any]
JSON, EVENTS = "application/json", "text/event-stream"
_REF = "#/components/schemas/{name}"

DESCRIPTION = (
    "OpenAI's REST API in front of a KServe v2 gRPC text model server. Paths with /v1 answer without it too. Where a "
    "request names a model, the model may be in the path instead: /{model}/chat/completions, in short /{model}/chat, "
    "also as /v1/models/{model}/chat/completions, and for older clients /v1/engines/{model}/chat/completions; so for "
    "completions and embeddings, which have no short path. null is the same as no field."
)


@lru_cache(maxsize=4)
def encoded(endpoints: tuple[Endpoint, ...], *, keys: bool) -> bytes:
    return orjson.dumps(document(endpoints, keys=keys))


def document(endpoints: Iterable[Endpoint], *, keys: bool) -> Json:
    """The document of a server with these endpoints. `keys`: requests need an API key."""
    paths: dict[str, Json] = {}
    descriptions = []
    for endpoint in endpoints:
        if (description := endpoint.description) is None:
            continue
        descriptions.append(description)
        paths.setdefault(endpoint.name, {})[endpoint.method.lower()] = _operation(endpoint, description, keys=keys)
    components: Json = {"schemas": _components(descriptions)}
    document: Json = {
        "openapi": "3.1.0",
        "info": {"title": "anyserve-openai", "version": __version__, "description": DESCRIPTION},
        "paths": paths,
        "components": components,
    }
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


def _operation(endpoint: Endpoint, description: Description, *, keys: bool) -> Json:
    errors = description.errors | ({401} if keys and not endpoint.is_open else frozenset())
    operation: Json = {
        "operationId": endpoint.name.removeprefix("/v1").strip("/").translate(str.maketrans("/-.", "___", "{}")),
        "tags": [description.tag],
        "summary": description.summary,
        "responses": {"200": _answer(description), **{str(status): _error(status) for status in sorted(errors)}},
    }
    if description.requests:
        examples = {
            name: {"summary": example.summary, "value": example.body} for name, example in description.examples.items()
        }
        schema = _any([request.struct for request in description.requests])
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": schema, "examples": examples}}}
    if "{model}" in endpoint.name:
        operation["parameters"] = [
            {
                "name": "model",
                "in": "path",
                "required": True,
                "description": "May have slashes.",
                "schema": {"type": "string"},
                "example": MODEL,
            }
        ]
    if keys and endpoint.is_open:
        operation["security"] = []
    return operation


def _answer(description: Description) -> Json:
    if description.answers == [str]:
        text = {"schema": {"type": "string"}, "example": description.example}
        return _response("Prometheus' text format.", {"text/plain": text})
    content: Json = {JSON: {"schema": _any(description.answers), "example": description.example}}
    if description.chunk is None:
        return _response("The answer.", content)
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": _any([description.chunk, Error])}
    event = {"type": "object", "properties": {"data": {"anyOf": [data, {"const": "[DONE]"}]}}, "description": _EVENTS}
    content[EVENTS] = {"schema": event}
    return _response("The answer; with `stream`, events.", content)


_EVENTS = (
    "The fields of each server-sent event. After a failure midway comes one with an Error; the data of the last one is "
    "[DONE]. Lines that begin with a colon only keep the connection open."
)


def _error(status: int) -> Json:
    made = _response(f"{HTTPStatus(status).phrase}.", {JSON: {"schema": _any([Error])}})
    if status == 429:
        made["headers"]["retry-after"] = {"description": "Seconds.", "schema": {"type": "integer"}}
    return made


def _response(description: str, content: Json) -> Json:
    headers = {"x-request-id": {"description": "The client's, or a new one.", "schema": {"type": "string"}}}
    return {"description": description, "headers": headers, "content": content}


def _any(types: Sequence[Any]) -> Json:
    """A reference to one of them."""
    found, _ = msgspec.json.schema_components(types, ref_template=_REF)
    return found[0] if len(found) == 1 else {"oneOf": list(found)}


# ---- Schemas


def _components(descriptions: Sequence[Description]) -> Json:
    types = [Error, *(each.chunk for each in descriptions if each.chunk)]
    types += [answer for each in descriptions for answer in each.answers]
    _, answers = msgspec.json.schema_components(types, ref_template=_REF)
    for schema in answers.values():
        schema.setdefault("additionalProperties", False)
    checked = tables(descriptions)
    _, requests = msgspec.json.schema_components(list(checked), ref_template=_REF)
    for struct, fields in checked.items():
        _narrow(requests[struct.__name__], fields)
    for description in descriptions:
        keys = [form.key for form in description.requests]
        for form in description.requests if len(keys) > 1 else ():
            _as_form(requests[form.struct.__name__], form.key, keys)
    if MessagesToTokenize in checked:
        requests["MessagesToTokenize"]["properties"]["messages"] = requests["ChatRequest"]["properties"]["messages"]
    return {**answers, **requests}


def tables(descriptions: Iterable[Description]) -> dict[type[Struct], Fields]:
    """Every Struct in requests, with the table that decides about its keys."""
    found: dict[type[Struct], Fields] = {}
    for description in descriptions:
        for form in description.requests:
            _find(msgspec.inspect.type_info(form.struct), form.fields, found)
    return found


def _find(kind: inspect.Type, table: Table, found: dict[type[Struct], Fields]) -> None:
    match kind, table:
        case inspect.Metadata(type=inner), _:
            _find(inner, table, found)
        case inspect.UnionType(types=options), _:
            for option in options:
                _find(option, table, found)
        case inspect.ListType(item_type=item), Each(table=of_item):
            _find(item, of_item, found)
        case inspect.StructType(), Variants(tag=key, tables=by_tag):
            _find(kind, by_tag[_tag(kind, key)], found)
        case inspect.StructType(cls=struct, fields=fields), Fields():
            found[struct] = table
            for field in fields:
                if (nested := table.nested.get(field.encode_name)) is not None:
                    _find(field.type, nested, found)


def _tag(struct: inspect.StructType, key: str) -> str:
    """The value of the field that tells the Struct from others."""
    if struct.tag is not None:
        return str(struct.tag)
    [literal] = [field.type for field in struct.fields if field.encode_name == key]
    assert isinstance(literal, inspect.LiteralType)
    return str(literal.values[0])


def _narrow(schema: Json, fields: Fields) -> None:
    """Narrows the schema to the keys and values that `fields` lets pass."""
    properties = schema["properties"]
    for name in sorted(fields.no_effect):
        properties.setdefault(name, {})["description"] = "Has no effect on the answer."
    for name, values in sorted(fields.neutral.items()):
        properties[name] = {"enum": [None, *values], "description": "Not supported: only what happens anyway."}
    for name, table in fields.nested.items():
        if isinstance(table, Entries):
            _let_be_null(properties[name])
    if fields.null_only:
        names = "|".join(re.escape(name) for name in sorted(fields.null_only))
        schema["patternProperties"] = {f"^(?:{names})$": {"type": "null"}}
    schema["additionalProperties"] = False


def _let_be_null(entries: Json) -> None:
    """Lets null be a value of an object with any keys."""
    for option in entries.get("anyOf", (entries,)):
        if "additionalProperties" in option:
            option["additionalProperties"] = {"anyOf": [option["additionalProperties"], {"type": "null"}]}


def _as_form(schema: Json, key: str, keys: Iterable[str]) -> None:
    """The form with the field `key`: null stands for no field, also where the default is not null; the other forms'
    `keys` are not there."""
    for name, value in schema["properties"].items():
        if name != key and value.get("type") == "boolean":
            schema["properties"][name] = {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": value["default"]}
    for other in keys:
        schema["properties"].setdefault(other, {"type": "null"})
