"""The OpenAPI 3.1 document, generated from the entries of the registry. PURE.

The Structs and `Fields` tables that check requests describe them, the Structs that are sent describe the responses, and
the table of gRPC statuses and the error types describe the errors. The module is imported when the document is first
requested, as it takes some memory.
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
from openai_server.api.endpoint import Description, Endpoint, Parameter
from openai_server.api.examples import MODEL
from openai_server.api.messages.errors import OVERLOADED
from openai_server.api.schemas import Fields, ListOf
from openai_server.api.schemas.tables import Entries, KnownItems, Table, Variants
from openai_server.api.schemas_tasks import MessagesToTokenize

Json = dict[str, Any]
JSON, FORM, EVENTS = "application/json", "multipart/form-data", "text/event-stream"
_REF = "#/components/schemas/{name}"

DESCRIPTION = (
    "OpenAI's and Anthropic's REST APIs for KServe v2 gRPC text model servers. The prefix /v1 of a path is optional, "
    "and Azure's prefix /openai may precede the paths of OpenAI's API. Instead of the field `model`, the path may "
    "name the model: /{model}/chat/completions, its short form /{model}/chat, /v1/models/{model}/chat/completions, "
    "/openai/deployments/{model}/chat/completions, and, for older clients, /v1/engines/{model}/chat/completions. "
    "Completions, responses, messages and embeddings have the same paths, except the short form. A field that is null "
    "counts as absent."
)


@lru_cache(maxsize=4)
def encoded(endpoints: tuple[Endpoint, ...], *, keys: bool) -> bytes:
    return orjson.dumps(document(endpoints, keys=keys))


def document(endpoints: Iterable[Endpoint], *, keys: bool) -> Json:
    """The document of a server with these endpoints. `keys`: whether requests need an API key."""
    paths: dict[str, Json] = {}
    descriptions, errors = [], []
    for endpoint in endpoints:
        if (description := endpoint.described()) is None:
            continue
        descriptions.append(description)
        errors.append(endpoint.client_api.error_type)
        paths.setdefault(endpoint.name, {})[endpoint.method.lower()] = _operation(endpoint, description, keys=keys)
    components: Json = {"schemas": _components(descriptions, errors)}
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
        "operationId": _operation_id(endpoint, description),
        "tags": [description.tag],
        "summary": description.summary,
        "responses": {
            "200": _answer(endpoint, description),
            **{str(status): _error(status, endpoint) for status in sorted(errors)},
        },
    }
    if description.requests:
        examples = {
            name: {"summary": example.summary, "value": example.body} for name, example in description.examples.items()
        }
        schema = _any([request.struct for request in description.requests])
        media_type = FORM if description.is_form else JSON
        operation["requestBody"] = {"required": True, "content": {media_type: {"schema": schema, "examples": examples}}}
    parameters = [*([_MODEL] if "{model}" in endpoint.name else ()), *description.parameters]
    if parameters:
        operation["parameters"] = [_parameter(parameter, endpoint) for parameter in parameters]
    if keys and endpoint.is_open:
        operation["security"] = []
    return operation


_MODEL = Parameter("model", "May contain slashes.", {"type": "string"}, MODEL)


def _parameter(parameter: Parameter, endpoint: Endpoint) -> Json:
    is_in_path = f"{{{parameter.name}}}" in endpoint.name
    return {
        "name": parameter.name,
        "in": "path" if is_in_path else "query",
        "required": is_in_path,
        "description": parameter.description,
        "schema": parameter.schema,
        "example": parameter.example,
    }


def _operation_id(endpoint: Endpoint, description: Description) -> str:
    """Contains the method only for stored objects, whose paths have several."""
    id = endpoint.name.removeprefix("/v1").strip("/").translate(str.maketrans("/-.", "___", "{}"))
    return f"{endpoint.method.lower()}_{id}" if "_id}" in endpoint.name or description.is_list else id


def _answer(endpoint: Endpoint, description: Description) -> Json:
    if description.answers == [str]:
        text = {"schema": {"type": "string"}, "example": description.example}
        return _response("Metrics in Prometheus' text format.", {"text/plain": text})
    if description.answers == [bytes]:
        binary = {"schema": {"type": "string", "format": "binary"}, "example": description.example}
        return _response("The content of the file, or the requested range of it.", {"application/octet-stream": binary})
    content: Json = {JSON: {"schema": _any(description.answers), "example": description.example}}
    if not description.events:
        return _response("The response.", content)
    types = [*description.events, endpoint.client_api.error_type]
    data: Json = {"type": "string", "contentMediaType": JSON, "contentSchema": _any(types)}
    about = _EVENTS
    if description.ends_with_done:
        data, about = {"anyOf": [data, {"const": "[DONE]"}]}, f"{_EVENTS} {_DONE}"
    event = {"type": "object", "properties": {"data": data}, "description": about}
    content[EVENTS] = {"schema": event}
    return _response("The response; with `stream`, server-sent events.", content)


_EVENTS = (
    "The fields of each server-sent event. If generation fails midway, an event with an error follows. Lines that "
    "begin with a colon only keep the connection open."
)
_DONE = "The data of the last event is [DONE]."


def _error(status: int, endpoint: Endpoint) -> Json:
    schema = _any([endpoint.client_api.error_type])
    phrase = "Overloaded" if status == OVERLOADED else HTTPStatus(status).phrase
    response = _response(f"{phrase}.", {JSON: {"schema": schema}})
    if status in (429, OVERLOADED):
        response["headers"]["retry-after"] = {
            "description": "Seconds to wait before a retry.",
            "schema": {"type": "integer"},
        }
    return response


def _response(description: str, content: Json) -> Json:
    headers = {
        "x-request-id": {"description": "The id that the client sent, or a new one.", "schema": {"type": "string"}}
    }
    return {"description": description, "headers": headers, "content": content}


def _any(types: Sequence[Any]) -> Json:
    """A schema that accepts any of the types, by reference."""
    schemas, _ = msgspec.json.schema_components(types, ref_template=_REF)
    return schemas[0] if len(schemas) == 1 else {"oneOf": list(schemas)}


# ---- Schemas


def _components(descriptions: Sequence[Description], errors: Iterable[Any]) -> Json:
    types = [*dict.fromkeys(errors), *(event for description in descriptions for event in description.events)]
    types += [answer for description in descriptions for answer in description.answers if answer is not bytes]
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
    """Every Struct of the requests, with the table that checks its keys."""
    structs: dict[type[Struct], Fields] = {}
    for description in descriptions:
        for form in description.requests:
            _collect(msgspec.inspect.type_info(form.struct), form.fields, structs)
    return structs


def _collect(kind: inspect.Type, table: Table, structs: dict[type[Struct], Fields]) -> None:
    """Adds the Structs in the type `kind`, with their tables, to `structs`."""
    match kind, table:
        case inspect.Metadata(type=inner), _:
            _collect(inner, table, structs)
        case inspect.UnionType(types=options), _:
            for option in options:
                _collect(option, table, structs)
        case inspect.ListType(item_type=item), ListOf(table=of_item):
            _collect(item, of_item, structs)
        case inspect.StructType(), Variants(tag=key, tables=by_tag):
            _collect(kind, by_tag[_tag(kind, key)], structs)
        case inspect.StructType(cls=struct, fields=fields), Fields():
            structs[struct] = table
            for field in fields:
                if (nested := table.nested.get(field.encode_name)) is not None:
                    _collect(field.type, nested, structs)


def _tag(struct: inspect.StructType, key: str) -> str:
    """The value of the tag field, which identifies the Struct in a union."""
    if struct.tag is not None:
        return str(struct.tag)
    [literal] = [field.type for field in struct.fields if field.encode_name == key]
    assert isinstance(literal, inspect.LiteralType)
    return str(literal.values[0])


def _narrow(schema: Json, fields: Fields) -> None:
    """Narrows the schema to the keys and values that `fields` accepts."""
    properties = schema["properties"]
    for name in sorted(fields.no_effect):
        properties.setdefault(name, {})["description"] = "Has no effect on the response."
    for name, values in sorted(fields.neutral.items()):
        properties[name] = {
            "enum": [None, *values],
            "description": "Not supported, except for values that change nothing.",
        }
    for name, table in fields.nested.items():
        if isinstance(table, Entries):
            _allow_null(properties[name])
        elif isinstance(table, KnownItems):
            _allow_other_kinds(properties[name], table.table)
    if fields.null_only:
        names = "|".join(re.escape(name) for name in sorted(fields.null_only))
        schema["patternProperties"] = {f"^(?:{names})$": {"type": "null"}}
    if fields.implied_tag:
        schema["required"].remove(fields.implied_tag)
        properties[fields.implied_tag]["enum"].append(None)
    schema["additionalProperties"] = fields.is_open


def _allow_null(entries: Json) -> None:
    """Allows null as a value in an object with arbitrary keys."""
    for option in entries.get("anyOf", (entries,)):
        if "additionalProperties" in option:
            option["additionalProperties"] = {"anyOf": [option["additionalProperties"], {"type": "null"}]}


def _allow_other_kinds(items: Json, known: Variants) -> None:
    """Allows objects of other kinds in a list, which are ignored."""
    kind = {"type": "string", "not": {"enum": sorted(known.tables)}}
    other = {"type": "object", "required": [known.tag], "properties": {known.tag: kind}, "description": "Ignored."}
    for option in items.get("anyOf", (items,)):
        if option.get("type") == "array":
            option["items"] = {"anyOf": [*option["items"].get("anyOf", [option["items"]]), other]}


def _as_form(schema: Json, key: str, keys: Iterable[str]) -> None:
    """Adapts the schema of the request form with the field `key`: booleans may be null even if their default is not,
    and the other forms' `keys` must be absent or null."""
    for name, value in schema["properties"].items():
        if name != key and value.get("type") == "boolean":
            schema["properties"][name] = {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": value["default"]}
    for other_key in keys:
        schema["properties"].setdefault(other_key, {"type": "null"})
