"""The served OpenAPI document: its paths are the routes, and its schemas fit requests and responses."""

import subprocess
import sys
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from openai_server.api import openapi, schemas, schemas_tasks
from openai_server.api.chat.answer import ChatCompletionChunk
from openai_server.api.completions.answer import CompletionChunk
from openai_server.api.conversations.request import (
    CONVERSATION_UPDATE_FIELDS,
    NEW_CONVERSATION_FIELDS,
    NEW_CONVERSATION_ITEMS_FIELDS,
    ConversationUpdate,
    NewConversation,
    NewConversationItems,
)
from openai_server.api.messages.fields import COUNT_FIELDS, MESSAGES_FIELDS
from openai_server.api.messages.schema import CountTokensRequest, MessagesRequest
from openai_server.api.registry import ENDPOINTS
from openai_server.api.responses.input.body import ResponsesBody
from openai_server.api.responses.input.fields import RESPONSES_FIELDS
from openai_server.api.responses.output.stream_events import ResponseCreated
from tests.ops.able_worker import able_worker
from tests.wire import responses_bodies
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import Sidecar, running
from tests.wire.stored_objects import MEMORY, with_ids

TOOLS = [{"type": "function", "function": {"name": "f"}}]
CALLS = {"tools": TOOLS, "enable_thinking": True}


async def openapi_document(sidecar: Sidecar) -> Any:
    reply = await sidecar.get("/openapi.json")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    return reply.json


def check(document: Any, schema: Any, value: object) -> None:
    Draft202012Validator({**schema, "components": document["components"]}).validate(value)


def response_schema(document: Any, method: str, path: str, status: int = 200) -> Any:
    return document["paths"][path][method]["responses"][str(status)]["content"]["application/json"]["schema"]


async def test_every_path_is_served() -> None:
    async with running(able_worker()) as sidecar:
        for path, operations in (await openapi_document(sidecar))["paths"].items():
            for method in ("get", "post", "put"):
                status = (await sidecar.send(method.upper(), path.replace("{model}", "tiny"))).status
                assert (status == 405) == (method not in operations)


@pytest.mark.slow
def test_the_document_uses_no_memory_before_the_first_request() -> None:
    code = "import sys, openai_server.app; sys.exit('openai_server.api.openapi' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_the_schemas_are_json_schemas() -> None:
    async with running(FakeWorker()) as sidecar:
        document = await openapi_document(sidecar)
    tables = openapi.tables(description for endpoint in ENDPOINTS if (description := endpoint.described()))
    are_open = {struct.__name__ for struct, fields in tables.items() if fields.is_open}
    for name, schema in document["components"]["schemas"].items():
        Draft202012Validator.check_schema(schema)
        assert schema["additionalProperties"] is (name in are_open)


async def test_every_accepted_field_is_described() -> None:
    async with running(FakeWorker()) as sidecar:
        components = (await openapi_document(sidecar))["components"]["schemas"]
    tables = openapi.tables([description for endpoint in ENDPOINTS if (description := endpoint.described())])
    for struct, fields in tables.items():
        assert components[struct.__name__]["additionalProperties"] is fields.is_open
    for struct, fields in (
        (schemas.ChatRequest, schemas.CHAT_FIELDS),
        (schemas.CompletionRequest, schemas.COMPLETION_FIELDS),
        (ResponsesBody, RESPONSES_FIELDS),
        (schemas_tasks.RerankRequest, schemas_tasks.RERANK_FIELDS),
        (MessagesRequest, MESSAGES_FIELDS),
        (CountTokensRequest, COUNT_FIELDS),
        (NewConversation, NEW_CONVERSATION_FIELDS),
        (ConversationUpdate, CONVERSATION_UPDATE_FIELDS),
        (NewConversationItems, NEW_CONVERSATION_ITEMS_FIELDS),
    ):
        accepted = {*fields.mapped, *fields.no_effect, *fields.neutral}
        assert components[struct.__name__]["properties"].keys() == accepted


def test_every_struct_of_a_request_has_a_table_of_fields() -> None:
    described = [description for endpoint in ENDPOINTS if (description := endpoint.described())]
    structs = [request.struct for description in described for request in description.requests]
    _, components = msgspec.json.schema_components(structs)
    assert components.keys() == {struct.__name__ for struct in openapi.tables(described)}


async def test_the_document_needs_no_key_and_lists_the_operations_that_do() -> None:
    async with running(FakeWorker(), api_key=("secret",)) as sidecar:
        document = await openapi_document(sidecar)
    assert document["security"] == [{"key": []}]
    assert document["components"]["securitySchemes"] == {"key": {"type": "http", "scheme": "bearer"}}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            is_open = path in ("/livez", "/readyz", "/health", "/metrics", "/openapi.json")
            assert (operation.get("security") == []) == is_open
            assert ("401" in operation["responses"]) != is_open


async def test_health_is_absent_if_it_has_its_own_port() -> None:
    async with running(FakeWorker(), admin_port=0) as sidecar:
        paths = (await openapi_document(sidecar))["paths"]
        for path in ("/metrics", "/livez"):
            assert path not in paths
            assert (await sidecar.get(path)).status == 404


@pytest.mark.parametrize(
    "path",
    [
        *("/v1/models", "/v1/models/tiny", "/tokenizer_info", "/health", "/livez", "/readyz", "/openapi.json"),
        *("/v1/responses/{response_id}", "/v1/responses/{response_id}/input_items"),
        *(f"/v1/conversations/{{conversation_id}}{rest}" for rest in ("", "/items", "/items/{item_id}")),
        *("/v1/files", "/v1/files/{file_id}"),
    ],
)
async def test_responses_to_get_fit_their_schemas(path: str) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        document = await openapi_document(sidecar)
        reply = await sidecar.get(await with_ids(sidecar, path))
        assert reply.status == 200
        check(document, response_schema(document, "get", path.replace("tiny", "{model}")), reply.json)


MESSAGES = {"messages": [{"role": "user", "content": "hi"}]}
ANTHROPIC_TOOL = {"name": "f", "input_schema": {"type": "object"}}
REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": "a"}),
    ("/v1/completions", {"prompt": ["a", "b"], "n": 2, "logprobs": 2}),
    ("/v1/chat/completions", {**MESSAGES}),
    ("/v1/chat/completions", {**MESSAGES, **CALLS, "logprobs": True, "top_logprobs": 2}),
    ("/v1/chat/completions", {**MESSAGES, "functions": [{"name": "f"}], "n": 2}),
    *(("/v1/responses", body) for body in responses_bodies.BODIES if not body.get("stream")),
    ("/v1/conversations", {}),
    ("/v1/conversations", {"items": responses_bodies.ITEMS, "metadata": {"a": "b", "c": None}}),
    ("/v1/conversations/{conversation_id}", {"metadata": None}),
    ("/v1/conversations/{conversation_id}/items", {"items": responses_bodies.ITEMS}),
    ("/v1/uploads", {"bytes": 1, "filename": "f", "mime_type": "", "purpose": "batch", "expires_after": None}),
    ("/v1/messages", {**MESSAGES, "max_tokens": 9}),
    ("/v1/messages", {**MESSAGES, "max_tokens": 9, "tools": [ANTHROPIC_TOOL], "thinking": {"type": "adaptive"}}),
    ("/v1/messages/count_tokens", {**MESSAGES, "tools": [ANTHROPIC_TOOL]}),
    ("/v1/embeddings", {"input": "a"}),
    ("/v1/embeddings", {"input": [[1], [2]], "encoding_format": "base64"}),
    ("/v1/rerank", {"query": "a", "documents": ["b", {"text": "c"}]}),
    ("/v1/rerank", {"query": "a", "documents": ["b"], "return_documents": True}),
    ("/tokenize", {"content": "a", "add_special": None, "prompt": None}),
    ("/tokenize", {"content": "a", "with_pieces": True}),
    ("/tokenize", {"prompt": "a"}),
    ("/tokenize", {**MESSAGES, "return_token_strs": True}),
    ("/detokenize", {"tokens": [1]}),
    ("/apply-template", {**MESSAGES}),
    ("/v1/chat/completions/input_tokens", {**MESSAGES}),
]


@pytest.mark.parametrize(("path", "body"), REQUESTS)
async def test_requests_and_responses_fit_their_schemas(path: str, body: dict[str, Any]) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        document = await openapi_document(sidecar)
        request_schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        check(document, request_schema, body)
        reply = await sidecar.send("POST", await with_ids(sidecar, path), body)
        assert reply.status == 200, reply.body
        check(document, response_schema(document, "post", path), reply.json)


FIRST_EVENTS = {
    "/v1/completions": CompletionChunk,
    "/v1/chat/completions": ChatCompletionChunk,
    "/v1/responses": ResponseCreated,
}


@pytest.mark.parametrize(("path", "body"), [case for case in REQUESTS if case[0] in FIRST_EVENTS])
async def test_events_fit_their_schemas(path: str, body: dict[str, Any]) -> None:
    chunk = FIRST_EVENTS[path]
    async with running(able_worker()) as sidecar:
        document = await openapi_document(sidecar)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        reply = await sidecar.send("POST", path, body | options)
        events = document["paths"][path]["post"]["responses"]["200"]["content"]["text/event-stream"]["schema"]
        described = events["properties"]["data"]["anyOf"][0]["contentSchema"]
        assert described["oneOf"][0] == {"$ref": f"#/components/schemas/{chunk.__name__}"}
        assert len(reply.events) > 5
        for event in reply.events:
            check(document, described, event)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/completions", {"prompt": 1}, 400),
        ("/v1/chat/completions", {**MESSAGES, "model": "other"}, 404),
        ("/v1/completions", {"prompt": "a" * 200}, 413),
        ("/v1/conversations", {"items": 1}, 400),
        ("/v1/conversations/{conversation_id}", {"metadata": {}}, 404),
        ("/v1/messages", {"messages": 1}, 400),
        ("/v1/messages", {**MESSAGES, "max_tokens": 1, "model": "other"}, 404),
        ("/v1/messages/count_tokens", {"system": "a" * 200}, 413),
    ],
)
async def test_errors_fit_their_schemas(path: str, body: dict[str, Any], status: int) -> None:
    async with running(able_worker(), store=MEMORY, max_body_bytes=150) as sidecar:
        document = await openapi_document(sidecar)
        reply = await sidecar.send("POST", path, body)
        assert reply.status == status
        check(document, response_schema(document, "post", path, status), reply.json)
