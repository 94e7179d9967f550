"""The OpenAPI 3.1 document: what can be asked, and what comes back.

PURE. Requests are described from the Structs and `Fields` tables that check them, errors from the table of gRPC
statuses and the types of errors; answers in `openapi_answers`. Imported when somebody asks for the document, as it
takes some memory. tests/wire/test_openapi.py compares its paths with the routes, and asks them what it describes.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

import msgspec
import orjson

from openai_server import __version__
from openai_server.api import openapi_answers as answers
from openai_server.api import openapi_examples as examples
from openai_server.api import schemas
from openai_server.api import schemas_tasks as tasks
from openai_server.api.schemas import Fields, tool_choice
from openai_server.api.schemas import requests as bodies
from openai_server.api.schemas.tables import Entries
from openai_server.core import messages, tools
from openai_server.core.errors import GRPC_TO_HTTP

Json = dict[str, Any]
JSON, EVENTS = "application/json", "text/event-stream"
_REF = "#/components/schemas/{name}"

DESCRIPTION = (
    "OpenAI's REST API in front of a KServe v2 gRPC text model server. Paths with /v1 answer without it too. Where a "
    "request names a model, the model may be in the path instead: /{model}/chat/completions, in short /{model}/chat, "
    "also as /v1/models/{model}/chat/completions, and for older clients /v1/engines/{model}/chat/completions; so for "
    "completions and embeddings, which have no short path. null is the same as no field."
)

_CHECKED_BY: dict[Any, Fields] = {
    schemas.CompletionRequest: schemas.COMPLETION_FIELDS,
    schemas.ChatRequest: schemas.CHAT_FIELDS,
    bodies.StreamOptions: schemas.STREAM_OPTIONS_FIELDS,
    bodies.TextFormat: schemas.RESPONSE_FORMAT_FIELDS["text"],
    bodies.JsonObjectFormat: schemas.RESPONSE_FORMAT_FIELDS["json_object"],
    bodies.JsonSchemaFormat: schemas.RESPONSE_FORMAT_FIELDS["json_schema"],
    bodies.NamedSchema: schemas.NAMED_SCHEMA_FIELDS,
    messages.SystemMessage: schemas.MESSAGE_FIELDS["system"],
    messages.DeveloperMessage: schemas.MESSAGE_FIELDS["developer"],
    messages.UserMessage: schemas.MESSAGE_FIELDS["user"],
    messages.AssistantMessage: schemas.MESSAGE_FIELDS["assistant"],
    messages.ToolMessage: schemas.MESSAGE_FIELDS["tool"],
    messages.FunctionMessage: schemas.MESSAGE_FIELDS["function"],
    messages.TextPart: schemas.PART_FIELDS["text"],
    messages.InputTextPart: schemas.PART_FIELDS["input_text"],
    messages.OutputTextPart: schemas.PART_FIELDS["output_text"],
    messages.AnswerPart: schemas.ANSWER_PART_FIELDS["text"],
    messages.RefusalPart: schemas.ANSWER_PART_FIELDS["refusal"],
    messages.Audio: schemas.AUDIO_FIELDS,
    messages.ToolCall: schemas.TOOL_CALL_FIELDS,
    messages.FunctionCall: schemas.FUNCTION_CALL_FIELDS,
    messages.CustomToolCall: schemas.CUSTOM_TOOL_CALL_FIELDS,
    messages.CustomCall: schemas.CUSTOM_CALL_FIELDS,
    tools.Tool: schemas.TOOL_FIELDS,
    tools.FunctionDefinition: schemas.FUNCTION_FIELDS,
    tool_choice.FunctionName: schemas.FUNCTION_NAME_FIELDS,
    tool_choice.NamedTool: schemas.TOOL_CHOICE_FIELDS["function"],
    tool_choice.AllowedToolChoice: schemas.TOOL_CHOICE_FIELDS["allowed_tools"],
    tool_choice.AllowedTools: schemas.ALLOWED_TOOLS_FIELDS,
    tasks.EmbeddingRequest: tasks.EMBEDDING_FIELDS,
    tasks.RerankRequest: tasks.RERANK_FIELDS,
    tasks.TextDocument: tasks.DOCUMENT_FIELDS,
    tasks.ContentToTokenize: tasks.CONTENT_FIELDS,
    tasks.PromptToTokenize: tasks.PROMPT_FIELDS,
    tasks.MessagesToTokenize: tasks.MESSAGES_FIELDS,
    tasks.DetokenizeRequest: tasks.DETOKENIZE_FIELDS,
}
"""Every Struct of a request, with the table that decides about keys."""
_FORMS = {tasks.ContentToTokenize: "content", tasks.PromptToTokenize: "prompt", tasks.MessagesToTokenize: "messages"}
"""Of one request: which of the three is there says which it is."""


@dataclass(frozen=True, slots=True)
class Operation:
    """What `path` answers, and to which bodies: no body is a GET. `errors` are HTTP statuses."""

    path: str
    tag: str
    summary: str
    answers: Sequence[Any]
    errors: frozenset[int]
    bodies: Sequence[Any] = ()
    chunk: Any = None
    """Of a stream."""
    open: bool = False
    """Needs no key."""
    is_text: bool = False


_ALWAYS = frozenset({500})
_OF_BACKEND = frozenset(http.status for http in GRPC_TO_HTTP.values())
_OF_BODY = frozenset({400, 408, 413, 415, 429})
_POSTED = _ALWAYS | _OF_BACKEND | _OF_BODY

OPERATIONS = (
    Operation(
        "/v1/completions",
        "Generation",
        "Continue a text",
        [answers.Completion],
        _POSTED,
        [schemas.CompletionRequest],
        answers.CompletionChunk,
    ),
    Operation(
        "/v1/chat/completions",
        "Generation",
        "Answer a conversation",
        [answers.ChatCompletion],
        _POSTED,
        [schemas.ChatRequest],
        answers.ChatCompletionChunk,
    ),
    Operation("/v1/embeddings", "Texts", "Vectors of texts", [answers.Embeddings], _POSTED, [tasks.EmbeddingRequest]),
    Operation("/v1/rerank", "Texts", "Order documents by a query", [answers.Ranking], _POSTED, [tasks.RerankRequest]),
    Operation(
        "/tokenize",
        "Texts",
        "Tokens of a text or a conversation",
        [answers.ContentTokens, answers.PromptTokens],
        _POSTED,
        [*_FORMS],
    ),
    Operation(
        "/detokenize", "Texts", "The text of tokens", [answers.DetokenizedText], _POSTED, [tasks.DetokenizeRequest]
    ),
    Operation(
        "/apply-template",
        "Texts",
        "The prompt that a conversation becomes",
        [answers.RenderedPrompt],
        _POSTED,
        [schemas.ChatRequest],
    ),
    Operation("/v1/models", "Models", "The models that are served", [answers.Models], _ALWAYS | _OF_BACKEND),
    Operation("/v1/models/{model}", "Models", "What a model can do", [answers.Model], _ALWAYS | _OF_BACKEND),
    Operation("/openapi.json", "Server", "This document", [dict[str, Any]], _ALWAYS, open=True),
)
ADMINISTRATION = (
    Operation("/livez", "Server", "Whether the server runs", [answers.Health], _ALWAYS, open=True),
    Operation(
        "/readyz",
        "Server",
        "Whether a request for the default model would be answered",
        [answers.Health],
        _ALWAYS | {503},
        open=True,
    ),
    Operation("/health", "Server", "The same as /readyz", [answers.Health], _ALWAYS | {503}, open=True),
    Operation("/metrics", "Server", "Metrics for Prometheus", [str], _ALWAYS, open=True, is_text=True),
)
"""Not on the API's port if they have one of their own."""


@lru_cache(maxsize=4)
def encoded(*, keys: bool, administration: bool) -> bytes:
    return orjson.dumps(document(keys=keys, administration=administration))


def document(*, keys: bool, administration: bool) -> Json:
    """Of a server that wants keys, and that has health and metrics on the API's port."""
    operations = [*OPERATIONS, *(ADMINISTRATION if administration else ())]
    components: Json = {"schemas": _components()}
    made: Json = {
        "openapi": "3.1.0",
        "info": {"title": "anyserve-openai", "version": __version__, "description": DESCRIPTION},
        "paths": {one.path: {"post" if one.bodies else "get": _described(one, keys=keys)} for one in operations},
        "components": components,
    }
    if keys:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        made["security"] = [{"key": []}]
    return made


def _described(one: Operation, *, keys: bool) -> Json:
    errors = one.errors | ({401} if keys and not one.open else frozenset())
    told: Json = {
        "operationId": one.path.removeprefix("/v1").strip("/").translate(str.maketrans("/-.", "___", "{}")),
        "tags": [one.tag],
        "summary": one.summary,
        "responses": {"200": _answer(one), **{str(status): _error(status) for status in sorted(errors)}},
    }
    if one.bodies:
        shown = {
            name: {"summary": example.summary, "value": example.body}
            for name, example in examples.REQUESTS[one.path].items()
        }
        told["requestBody"] = {
            "required": True,
            "content": {JSON: {"schema": _any(one.bodies), "examples": shown}},
        }
    if "{model}" in one.path:
        told["parameters"] = [
            {
                "name": "model",
                "in": "path",
                "required": True,
                "description": "May have slashes.",
                "schema": {"type": "string"},
                "example": examples.MODEL,
            }
        ]
    if keys and one.open:
        told["security"] = []
    return told


def _answer(one: Operation) -> Json:
    if one.is_text:
        text = {"schema": {"type": "string"}, "example": examples.RESPONSES[one.path]}
        return _response("Prometheus' text format.", {"text/plain": text})
    content: Json = {JSON: {"schema": _any(one.answers), "example": examples.RESPONSES[one.path]}}
    if one.chunk is None:
        return _response("The answer.", content)
    data = {"type": "string", "contentMediaType": JSON, "contentSchema": _any([one.chunk, answers.Error])}
    event = {"type": "object", "properties": {"data": {"anyOf": [data, {"const": "[DONE]"}]}}, "description": _EVENTS}
    content[EVENTS] = {"schema": event}
    return _response("The answer; with `stream`, events.", content)


_EVENTS = (
    "Of each server-sent event. After a failure midway comes one with an Error; the data of the last one is [DONE]. "
    "Lines that begin with a colon only keep the connection open."
)


def _error(status: int) -> Json:
    made = _response(f"{HTTPStatus(status).phrase}.", {JSON: {"schema": _any([answers.Error])}})
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


def _components() -> Json:
    _, told = msgspec.json.schema_components(_types(OPERATIONS + ADMINISTRATION), ref_template=_REF)
    _, asked = msgspec.json.schema_components(list(_CHECKED_BY), ref_template=_REF)
    for struct, fields in _CHECKED_BY.items():
        _narrow(asked[struct.__name__], fields)
    for struct, form in _FORMS.items():
        _as_form(asked[struct.__name__], form)
    asked["MessagesToTokenize"]["properties"]["messages"] = asked["ChatRequest"]["properties"]["messages"]
    for shape in told.values():
        shape.setdefault("additionalProperties", False)
    return {**told, **asked}


def _types(operations: Iterable[Operation]) -> list[Any]:
    """Of answers."""
    return [made for one in operations for made in (*one.answers, one.chunk, answers.Error) if made is not None]


def _narrow(schema: Json, fields: Fields) -> None:
    """To the keys and values that `fields` lets pass."""
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
    """The values of an object with any keys."""
    for option in entries.get("anyOf", (entries,)):
        if "additionalProperties" in option:
            option["additionalProperties"] = {"anyOf": [option["additionalProperties"], {"type": "null"}]}


def _as_form(schema: Json, form: str) -> None:
    """null stands for no field, also where the default is not null; the other forms' fields are not there."""
    for name, value in schema["properties"].items():
        if name != form and value.get("type") == "boolean":
            schema["properties"][name] = {"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": value["default"]}
    for other in _FORMS.values():
        schema["properties"].setdefault(other, {"type": "null"})
