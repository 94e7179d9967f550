"""Null means the same as an absent field, in every object of every request; a field that requests the default is
accepted. The fields come from the served OpenAPI document, so new ones are covered too."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from tests.ops.able_worker import able_worker
from tests.wire import responses_bodies
from tests.wire.sidecar import Reply, Sidecar, running
from tests.wire.stored_objects import MEMORY, with_ids

FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "default": None}, "strict": False}
CALL = {"name": "f", "arguments": "{}"}
FILE = {"type": "file", "file": {"file_data": "YQ==", "filename": "a.txt"}}
PARTS: list[Any] = [{"type": kind, "text": "x"} for kind in ("text", "input_text", "output_text")]
MESSAGES: list[Any] = [
    {"role": "system", "content": PARTS},
    {"role": "developer", "content": "x"},
    {"role": "user", "content": [*PARTS, FILE], "name": "n"},
    {
        "role": "assistant",
        "content": [*PARTS, {"type": "refusal", "refusal": "x"}, {"type": "text", "text": "x", "reasoning": "x"}],
        "tool_calls": [
            {"type": "function", "id": "1", "function": CALL},
            {"type": "custom", "id": "2", "custom": {"name": "f", "input": "x"}},
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": PARTS},
    {"role": "assistant", "content": "x", "audio": {"transcript": "x"}, "function_call": CALL},
    {"role": "function", "name": "f", "content": "x"},
    {"role": "user", "content": "x"},
]
TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}
GRAMMAR = {"syntax": "regex", "definition": "a+"}
CHOSEN = {"type": "function", "function": {"name": "f"}}
STREAM = {"stream": True, "stream_options": {"include_usage": True}}
GENERATION: list[dict[str, Any]] = [
    {**STREAM, "response_format": {"type": "text"}, "logit_bias": {"5": 1}},
    {"response_format": {"type": "json_object", "schema": {"type": "object", "default": None}}},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}},
    {"structured_outputs": {"json": {"type": "object"}}},
    {"structured_outputs": {"choice": ["a"], "json_object": False}},
    {"guided_json": {"type": "object"}, "guided_whitespace_pattern": " "},
]
CHAT: list[dict[str, Any]] = [
    {"messages": MESSAGES, **TOOLS, "tool_choice": CHOSEN, "chat_template_kwargs": {"enable_thinking": None}},
    {
        "messages": MESSAGES[:1],
        **TOOLS,
        "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [CHOSEN]}},
    },
    {
        "messages": MESSAGES[:1],
        "tools": [
            {"type": "custom", "custom": {"name": "c", "description": "d", "format": {"type": "text"}}},
            {"type": "custom", "custom": {"name": "g", "format": {"type": "grammar", "grammar": GRAMMAR}}},
        ],
        "tool_choice": {"type": "custom", "custom": {"name": "c"}},
    },
    {"messages": MESSAGES[:1], "functions": [FUNCTION], "function_call": {"name": "f"}},
    *({"messages": MESSAGES[:1], **fields} for fields in GENERATION),
]
ANTHROPIC_TEXT = {"type": "text", "text": "x"}
ANTHROPIC_BLOCKS: list[Any] = [
    ANTHROPIC_TEXT,
    {"type": "document", "source": {"type": "text", "data": "x"}},
    {"type": "document", "source": {"type": "content", "content": [ANTHROPIC_TEXT]}},
    {"type": "document", "source": {"type": "base64", "data": "YQ=="}},
    {"type": "search_result", "title": "t", "source": "s", "content": [ANTHROPIC_TEXT]},
    {"type": "tool_reference", "tool_name": "f"},
    {"type": "browser_state"},
]
ANTHROPIC_MESSAGES: list[Any] = [
    {"role": "system", "content": [ANTHROPIC_TEXT]},
    {"role": "user", "content": ANTHROPIC_BLOCKS},
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "x"},
            {"type": "redacted_thinking"},
            {"type": "mcp_tool_use"},
            {"type": "mcp_tool_result", "content": [ANTHROPIC_TEXT]},
            {"type": "server_tool_use"},
            *({"type": f"{name}_tool_result"} for name in ("web_search", "web_fetch", "tool_search", "advisor")),
            *({"type": f"{name}code_execution_tool_result"} for name in ("", "bash_", "text_editor_")),
            *({"type": name} for name in ("compaction", "container_upload", "fallback", "mcp_tool_listing")),
            *({"type": name} for name in ("tool_addition", "tool_removal")),
            {"type": "tool_use", "id": "1", "name": "f", "input": {"a": None}},
        ],
    },
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "1", "content": ANTHROPIC_BLOCKS}]},
]
ANTHROPIC_TOOLS = {"tools": [{"name": "f", "input_schema": {"type": "object", "default": None}}]}
ANTHROPIC: list[dict[str, Any]] = [
    {
        "messages": ANTHROPIC_MESSAGES,
        "system": [ANTHROPIC_TEXT],
        **ANTHROPIC_TOOLS,
        "output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
    },
    *(
        {"messages": [{"role": "user", "content": "x"}], **ANTHROPIC_TOOLS, "tool_choice": choice, "thinking": thinking}
        for choice, thinking in (
            ({"type": "auto"}, {"type": "adaptive"}),
            ({"type": "any"}, {"type": "between_tools"}),
            ({"type": "tool", "name": "f"}, {"type": "disabled"}),
            ({"type": "none"}, None),
        )
    ),
]
UPLOAD = {"bytes": 1, "filename": "f", "mime_type": "", "purpose": "batch"}
REFUSED = {"FileSource", "ImageBlockParam", "UrlSource"}
"""Objects that no request may contain, or only with a store or an option."""
BODIES: list[tuple[str, dict[str, Any]]] = [
    *(("/v1/completions", {"prompt": "x", **fields}) for fields in GENERATION),
    *(("/v1/chat/completions", body) for body in CHAT),
    *(("/v1/responses", body) for body in responses_bodies.BODIES),
    ("/v1/conversations", {"items": responses_bodies.ITEMS, "metadata": {"a": "b"}}),
    ("/v1/conversations/{conversation_id}/items", {"items": [{"role": "user", "content": "x"}]}),
    ("/v1/uploads", {**UPLOAD, "expires_after": {"anchor": "created_at", "seconds": 3600}}),
    ("/apply-template", CHAT[0]),
    ("/v1/chat/completions/input_tokens", CHAT[0]),
    *(("/v1/messages", {**body, "max_tokens": 9}) for body in ANTHROPIC),
    (
        "/v1/messages",
        {"messages": ANTHROPIC_MESSAGES[1:2], "max_tokens": 9, "structured_outputs": {"json": {"type": "object"}}},
    ),
    *(("/v1/messages/count_tokens", body) for body in ANTHROPIC),
    ("/v1/embeddings", {"input": "x"}),
    ("/v1/rerank", {"query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}),
    ("/tokenize", {"content": "x", "add_special": True}),
    ("/tokenize", {"prompt": "x", "add_special_tokens": False}),
    ("/tokenize", {"messages": MESSAGES, "return_token_strs": True}),
    ("/detokenize", {"tokens": [1]}),
]
_LARGE = 40
"""Objects and lists of a body from which on its tests take seconds."""


def _size(value: object) -> int:
    """Returns the number of objects and lists in a value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + sum(map(_size, inner))


EACH_BODY = pytest.mark.parametrize(
    ("path", "body"),
    [pytest.param(*item, id=item[0], marks=[pytest.mark.slow] * (_size(item[1]) >= _LARGE)) for item in BODIES],
)
STORED = {"ConversationReference", "ItemReferenceInput", "UploadCompletion", "BatchRequest"}
"""Refer to stored objects: test_sidecar_stored_responses.py, test_sidecar_files.py and test_sidecar_batches.py have
them."""
FORMS = {"NewFileForm", "NewUploadPart"}
"""Forms, which have no null."""
SEALED = {"CompactionInput", "CompactionTriggerInput"}
"""Objects that need a text sealed by the server, or end a conversation that such a text replaces."""
NULLABLE = {"ConversationUpdate"}
"""Objects with a field for which null is a value: test_conversations.py has them."""
Json = dict[str, Any]
Place = list[str | int]


def resolved(document: Json, schema: Json, value: object) -> Json:
    """Returns the alternative of `schema` that fits `value`."""
    while True:
        if reference := schema.get("$ref"):
            schema = document["components"]["schemas"][reference.rpartition("/")[2]]
        elif options := schema.get("anyOf") or schema.get("oneOf"):
            schema = next(
                option
                for option in options
                if Draft202012Validator({**option, "components": document["components"]}).is_valid(value)
            )
        else:
            return schema


def objects(document: Json, schema: Json, value: Any, place: Place) -> Iterator[tuple[Place, Json]]:
    """Yields place and schema of the objects in `value` whose keys the API defines."""
    schema = resolved(document, schema, value)
    if isinstance(value, dict) and "properties" in schema:
        yield place, schema
        for key, item in value.items():
            yield from objects(document, schema["properties"][key], item, [*place, key])
    elif isinstance(value, list) and "items" in schema:
        for i, item in enumerate(value):
            yield from objects(document, schema["items"], item, [*place, i])


def names_of(schema: Json) -> set[str]:
    """Returns all keys that an object may have, including those for which only null is allowed."""
    names = set(schema["properties"])
    for pattern in schema.get("patternProperties", ()):
        names |= {re.sub(r"\\(.)", r"\1", name) for name in pattern.removeprefix("^(?:").removesuffix(")$").split("|")}
    return names


def changed(body: Json, place: Place, values: Json, without: str | None = None) -> Json:
    """Returns a copy with other values in the object at `place`."""
    copy: Json = json.loads(json.dumps(body))
    target: Any = copy
    for key in place:
        target = target[key]
    target.update(values)
    target.pop(without, None)
    return copy


def param_of(place: Place) -> str:
    """Returns the place as `param` names it."""
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place).removeprefix(".")


def outcome(reply: Reply) -> tuple[int, Any]:
    """Returns status and error; None for a response, which other tests check."""
    return reply.status, None if reply.status == 200 else reply.json["error"]


async def schema_of(sidecar: Sidecar, path: str) -> tuple[Json, Json]:
    document = (await sidecar.get("/openapi.json")).json
    return document, document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


@EACH_BODY
async def test_null_means_an_absent_field(path: str, body: Json) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        document, body_schema = await schema_of(sidecar, path)
        path = await with_ids(sidecar, path)
        validator = Draft202012Validator({**body_schema, "components": document["components"]})
        whole = await sidecar.send("POST", path, body)
        assert whole.status == 200, whole.body
        for place, schema in objects(document, body_schema, body, []):
            target: Any = body
            for key in place:
                target = target[key]
            with_nulls = changed(body, place, dict.fromkeys(names_of(schema) - target.keys()))
            validator.validate(with_nulls)
            reply = await sidecar.send("POST", path, with_nulls)
            assert outcome(reply) == outcome(whole), f"fields of {param_of(place) or 'the body'}"
            for name in target:
                with_null = await sidecar.send("POST", path, changed(body, place, {name: None}))
                without = await sidecar.send("POST", path, changed(body, place, {}, without=name))
                assert outcome(with_null) == outcome(without), param_of([*place, name])


@EACH_BODY
async def test_a_required_field_that_is_null_is_missing_and_an_unknown_one_unknown(path: str, body: Json) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        document, body_schema = await schema_of(sidecar, path)
        path = await with_ids(sidecar, path)
        for place, schema in objects(document, body_schema, body, []):
            for name in schema.get("required", ()):
                reply = await sidecar.send("POST", path, changed(body, place, {name: None}))
                assert reply.status == 400, reply.body
                if path != "/tokenize" or place:  # /tokenize takes one of three fields
                    assert reply.names_field(param_of([*place, name]))
                    assert reply.json["error"]["message"].endswith("This field is required.")
            for value in (None, 1):
                reply = await sidecar.send("POST", path, changed(body, place, {"zzz": value}))
                if schema["additionalProperties"]:
                    assert reply.status == 200, reply.body
                    continue
                assert reply.status == 400
                assert reply.json["error"]["message"].endswith(param_of([*place, "zzz"]))
                assert "Unrecognized" in reply.json["error"]["message"]


@EACH_BODY
async def test_unsupported_fields_accept_only_the_default(path: str, body: Json) -> None:
    async with running(able_worker(), store=MEMORY) as sidecar:
        document, body_schema = await schema_of(sidecar, path)
        path = await with_ids(sidecar, path)
        for place, schema in objects(document, body_schema, body, []):
            neutral = {
                name: described["enum"]
                for name, described in schema["properties"].items()
                if described.get("description", "").startswith("Not supported")
            }
            for i in range(max(map(len, neutral.values()), default=0)):
                values = {name: values[min(i, len(values) - 1)] for name, values in neutral.items()}
                reply = await sidecar.send("POST", path, changed(body, place, values))
                assert reply.status == 200, reply.body
            for name in neutral:
                reply = await sidecar.send("POST", path, changed(body, place, {name: "zzz"}))
                assert reply.status == 400
                assert reply.json["error"].get("code", "unsupported_parameter") == "unsupported_parameter"
                assert reply.names_field(param_of([*place, name]))


async def test_the_bodies_contain_every_object_of_every_request() -> None:
    async with running(able_worker()) as sidecar:
        document = (await sidecar.get("/openapi.json")).json
    described: set[str] = set()
    pending: list[Any] = [
        operation.get("requestBody") for methods in document["paths"].values() for operation in methods.values()
    ]
    while pending:
        schema = pending.pop()
        if isinstance(schema, list):
            pending += schema
        elif isinstance(schema, dict):
            pending += schema.values()
            name = schema.get("$ref", "").rpartition("/")[2]
            if name and name not in described:
                described.add(name)
                pending.append(document["components"]["schemas"][name])
    tried = set()
    for path, body in BODIES:
        body_schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        tried |= {schema["title"] for _, schema in objects(document, body_schema, body, [])}
    assert tried == described - REFUSED - SEALED - STORED - NULLABLE - FORMS


@pytest.mark.parametrize("name", ["completions", "chat/completions", "embeddings"])
async def test_the_model_may_be_in_the_path(name: str) -> None:
    path = f"/v1/{name}"
    body = next(body for body_path, body in BODIES if body_path == path)
    async with running(able_worker()) as sidecar:
        document, body_schema = await schema_of(sidecar, path)
        _, schema = next(objects(document, body_schema, body, []))
        nulls = dict.fromkeys(names_of(schema) - body.keys())
        assert "model" in nulls
        for prefix in ("/tiny", "/v1/engines/tiny", "/engines/tiny", ""):
            assert (await sidecar.send("POST", f"{prefix}/{name}", {**body, **nulls})).status == 200


async def test_null_inside_data_is_kept() -> None:
    schema = {"type": "object", "properties": {"a": {"enum": [None, 1], "default": None}}}
    async with running(able_worker()) as sidecar:
        for format in (
            {"json_schema": schema},
            {"response_format": {"type": "json_object", "schema": schema}},
            {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}},
        ):
            assert (await sidecar.complete(prompt="x", **format)).status == 200
        tool = {"type": "function", "function": {"name": "f", "parameters": schema}}
        call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": null}'}}
        reply = await sidecar.send(
            "POST",
            "/apply-template",
            {"messages": [{"role": "assistant", "tool_calls": [call]}], "tools": [tool]},
        )
    assert reply.json["prompt"].count("null") == 3


@pytest.mark.parametrize("value", [[None], {"1": [None]}])
async def test_null_in_a_list_is_refused(value: Any) -> None:
    async with running(able_worker()) as sidecar:
        for field in ("stop", "stop_token_ids", "prompt"):
            reply = await sidecar.complete(**{"prompt": "x", field: value})
            assert reply.status == 400
            assert reply.error["param"].startswith(field)
