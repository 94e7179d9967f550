"""A value that is too deep, too long or too large, anywhere in any body, is a short 400 that names the field.

The places come from bodies that have every kind of field; the fields, from the OpenAPI document.
"""

import json
import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest

from tests.openai_server.api.responses.input.stored_items import ITEMS
from tests.wire import responses_bodies
from tests.wire.fake_worker import PROMPT_TASKS, FakeWorker
from tests.wire.sidecar import Sidecar, running
from tests.wire.stored_objects import MEMORY, with_ids

pytestmark = pytest.mark.slow

TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}{{ labels | tojson if labels }}"
    "{% for m in messages %}{{ m.role }}{{ m.content }}{{ m.tool_calls | tojson if m.tool_calls }}{% endfor %}"
)
MAX_ERROR_BYTES = 2500
"""Maximum size of an error's body, in bytes."""
FUNCTION = {"name": "f", "description": "d", "parameters": {"type": "object", "properties": {"a": {"enum": [1]}}}}
TOOL = {"type": "function", "function": {**FUNCTION, "strict": True}}
CALL = {"id": "i", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
NAMED = {"type": "function", "function": {"name": "f"}}
USER = {"role": "user", "content": [{"type": "text", "text": "x"}], "name": "n"}
FORMAT = {"type": "json_schema", "json_schema": {"name": "n", "schema": {"type": "object"}, "strict": True}}
SAMPLING = {
    "model": "tiny",
    "logit_bias": {"1": 2.5},
    "seed": 1,
    "max_tokens": 3,
    "temperature": 0.5,
    "stop": ["x"],
    "stop_token_ids": [1],
    "top_k": 1,
    "min_p": 0.1,
    "n": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
    "user": "u",
}
BODIES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/completions", {"prompt": ["a", "b"], "logprobs": 1, "json_schema": {"type": "object"}, **SAMPLING}),
    ("/v1/completions", {"prompt": [[1, 2]], "best_of": 1, "suffix": "s", "echo": False, "regex": "a|b"}),
    ("/completions", {"prompt": "a", "grammar": 'root ::= "a"', "response_format": {"type": "text"}}),
    ("/completions", {"prompt": "a", "guided_json": {"type": "object"}, "guided_whitespace_pattern": " "}),
    ("/completions", {"prompt": "a", "guided_choice": ["a", "b"], "guided_decoding_backend": "auto"}),
    ("/chat/completions", {"messages": [USER], "guided_grammar": "start: a", "tools": [TOOL]}),
    ("/chat/completions", {"messages": [USER], "ebnf": "root ::= []"}),
    ("/chat/completions", {"messages": [USER], "structured_outputs": {"choice": ["a", "b"], "disable_fallback": True}}),
    (
        "/chat/completions",
        {
            "messages": [USER],
            "structured_outputs": {
                "json": {"type": "object"},
                "whitespace_pattern": " ",
                "disable_additional_properties": True,
            },
        },
    ),
    ("/completions", {"prompt": "a", "structured_outputs": {"json": '{"type":"object"}', "json_object": False}}),
    (
        "/v1/chat/completions",
        {
            "messages": [
                USER,
                {"role": "assistant", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "i", "content": "r"},
            ],
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}},
            "response_format": FORMAT,
            "chat_template_kwargs": {"labels": {"a": 1}},
            "metadata": {"a": "b"},
            **SAMPLING,
        },
    ),
    (
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
                {"role": "function", "name": "f", "content": "r"},
            ],
            "functions": [FUNCTION],
            "function_call": {"name": "f"},
            "reasoning_effort": "low",
            "logprobs": True,
            "top_logprobs": 1,
            "prediction": {"type": "content", "content": "x"},
        },
    ),
    ("/v1/chat/completions", {"messages": [USER], "tools": [TOOL], "tool_choice": NAMED, "parallel_tool_calls": True}),
    ("/chat/completions", {"messages": [USER], "response_format": {"type": "json_object", "schema": {"a": 1}}}),
    ("/v1/responses", {"input": responses_bodies.ITEMS, "tools": responses_bodies.TOOLS[:4]}),
    ("/responses", {"input": "x", "tools": responses_bodies.TOOLS[:2], "tool_choice": responses_bodies.CHOICES[2]}),
    ("/v1/responses", {**responses_bodies.BODIES[-1], "text": {"format": responses_bodies.FORMATS[1]}}),
    ("/v1/conversations", {"items": responses_bodies.ITEMS, "metadata": {"a": "b"}}),
    ("/v1/conversations/{conversation_id}", {"metadata": {"a": "b"}}),
    *(("/v1/conversations", {"items": ITEMS[start : start + 20]}) for start in range(0, len(ITEMS), 20)),
    ("/v1/conversations/{conversation_id}/items", {"items": responses_bodies.ITEMS[3:]}),
    ("/apply-template", {"messages": [USER], "tools": [TOOL]}),
    ("/chat/completions/input_tokens", {"messages": [USER], "tools": [TOOL], "max_tokens": 1}),
    (
        "/v1/messages",
        {
            "max_tokens": 3,
            "system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}],
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "x"}]},
                {"role": "system", "content": "x"},
                {"role": "assistant", "content": [{"type": "tool_use", "id": "i", "name": "f", "input": {"a": 1}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "i", "content": "r"}]},
                {"role": "user", "content": [{"type": "document", "source": {"type": "text", "data": "x"}}]},
            ],
            "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}, "strict": True}],
            "tool_choice": {"type": "tool", "name": "f", "disable_parallel_tool_use": True},
            "thinking": {"type": "adaptive", "display": "omitted"},
            "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
            "stop_sequences": ["x"],
            "metadata": {"user_id": "u"},
            "stream": True,
        },
    ),
    ("/v1/messages/count_tokens", {"messages": [{"role": "user", "content": "x"}], "model": "tiny"}),
    (
        "/v1/embeddings",
        {"model": "tiny", "input": ["a"], "dimensions": 2, "encoding_format": "float", "pooling": "mean"},
    ),
    ("/v1/rerank", {"model": "tiny", "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1}),
    ("/tokenize", {"model": "tiny", "content": "x", "with_pieces": True}),
    ("/tokenize", {"messages": [USER], "return_token_strs": True}),
    ("/detokenize", {"model": "tiny", "tokens": [1, 2]}),
]
PLACEHOLDER = "<here>"


def nested(levels: int, opening: str, closing: str) -> str:
    return opening * levels + "1" + closing * levels


LISTS = ("[", "]")
OBJECTS = ('{"a":', "}")
HOSTILE: dict[str, str] = {
    **{f"{levels} lists": nested(levels, *LISTS) for levels in (150, 255, 500, 950)},
    **{f"{levels} objects": nested(levels, *OBJECTS) for levels in (150, 255, 500, 950)},
    "a schema of 260 levels": f'{{"type":"object","properties":{nested(260, *OBJECTS)}}}',
    "a long word": json.dumps("w" * 20_000),
    "a long key": json.dumps({"k" * 20_000: 1}),
    "a text of digits": json.dumps("9" * 5000),
    "a key of digits": json.dumps({"9" * 5000: 1}),
    "deep arguments": json.dumps(nested(300, *OBJECTS)),
    "deeper arguments": json.dumps(nested(1000, *OBJECTS)),
    "deep JSON in a text": json.dumps(nested(1000, *LISTS)),
    **{
        text[:9]: text
        for text in ("1e300", "1e400", "-1e400", "1e-9999", "9" * 30, "9" * 5000, "0." + "0" * 5000 + "1")
    },
    **{text: text for text in ("NaN", "Infinity", "-0.0", "1e15")},
}
"""Values in JSON, or almost in JSON."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yields the path of every value in a body."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def body_with(body: dict[str, Any], path: tuple[Any, ...], value: str) -> bytes:
    copy = deepcopy(body)
    container: Any = copy
    for key in path[:-1]:
        container = container[key]
    container[path[-1]] = PLACEHOLDER
    return json.dumps(copy).replace(json.dumps(PLACEHOLDER), value).encode()


def backend() -> FakeWorker:
    inputs = [spec.name for task in PROMPT_TASKS.values() for spec in task.inputs]
    return FakeWorker(inputs=inputs, parameters={"chat_template": TEMPLATE, "tasks": ",".join(PROMPT_TASKS)})


async def check(sidecar: Sidecar, path: str, body: bytes, label: object) -> None:
    reply = await sidecar.send("POST", path, body)
    if reply.status == 200 or reply.status == 502:  # the fake worker has no task but generate
        return
    assert 400 <= reply.status < 500, (label, reply.body[:500])
    assert len(reply.body) < MAX_ERROR_BYTES, (label, reply.body[:500])
    if "/messages" in path:
        message = reply.anthropic_error["message"]
        assert "'" in message or "not valid JSON" in message or "Unrecognized" in message, (label, message)
        return
    assert reply.error["param"] or reply.error["code"] == "invalid_json", (label, reply.error)
    assert len(reply.error["param"] or "") <= 250, (label, reply.error)


@pytest.mark.parametrize(("path", "body"), BODIES, ids=[f"{i} {path}" for i, (path, _) in enumerate(BODIES)])
async def test_a_hostile_value_in_any_place_is_refused_or_answered(
    path: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    async with running(backend(), store=MEMORY) as sidecar:
        path = await with_ids(sidecar, path)
        await check(sidecar, path, json.dumps(body).encode(), "as it is")
        for place in places(body):
            for name, value in HOSTILE.items():
                await check(sidecar, path, body_with(body, place, value), (place, name))
            if isinstance(place[-1], str):
                await check(sidecar, path, body_with(body, (*place[:-1], "k" * 20_000), "1"), (place, "a long name"))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


REQUIRED: dict[str, dict[str, Any]] = {
    "/v1/completions": {"prompt": "x"},
    "/v1/chat/completions": {"messages": [USER]},
    "/v1/responses": {"input": "x"},
    "/v1/messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "x"}]},
    "/v1/conversations": {},
    "/v1/conversations/{conversation_id}": {"metadata": {}},
    "/v1/conversations/{conversation_id}/items": {"items": []},
    "/v1/uploads": {"bytes": 1, "filename": "f", "mime_type": "text/plain", "purpose": "batch"},
    "/v1/uploads/{upload_id}/complete": {"part_ids": []},
    "/v1/batches": {"input_file_id": "file-1", "endpoint": "/v1/completions", "completion_window": "24h"},
    "/v1/embeddings": {"input": "x"},
    "/v1/rerank": {"query": "q", "documents": ["a"]},
    "/tokenize": {"messages": [USER]},
    "/detokenize": {"tokens": [1]},
}
ONE_OF_EACH = ("950 lists", "255 objects", "a text of digits", "a long key", "a long word", "1e300", "NaN")


def fields(schema: dict[str, Any], document: dict[str, Any]) -> set[str]:
    """Returns the names of all fields in a schema of the document."""
    if reference := schema.get("$ref"):
        return fields(document["components"]["schemas"][reference.rpartition("/")[2]], document)
    names = set(schema.get("properties", ()))
    for part in (*schema.get("anyOf", ()), *schema.get("oneOf", ())):
        names |= fields(part, document)
    return names


@pytest.mark.parametrize("path", REQUIRED)
async def test_a_hostile_value_in_any_field_is_refused_or_answered(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with running(backend(), store=MEMORY) as sidecar:
        document = (await sidecar.get("/openapi.json")).json
        content = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        names = fields(content["schema"], document)
        assert names >= REQUIRED[path].keys()
        actual = await with_ids(sidecar, path)
        for field in names:
            for name in ONE_OF_EACH:
                await check(sidecar, actual, body_with(REQUIRED[path], (field,), HOSTILE[name]), (field, name))
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("path", sorted({path for path, _ in BODIES if "/conversations" not in path}))
async def test_a_model_name_of_8_mb_is_not_found_and_not_quoted(path: str) -> None:
    body = next(dict(body) for body_path, body in BODIES if body_path == path)
    async with running(backend()) as sidecar:
        for stream in (False, True):
            generates = path.endswith(("completions", "responses")) and "stream_options" not in body
            options = {"stream": stream} if generates else {}
            reply = await sidecar.send("POST", path, {**body, **options, "model": "m" * (8 << 20)})
            if "/messages" in path:
                assert (reply.status, reply.anthropic_error["type"]) == (404, "not_found_error")
            else:
                assert (reply.status, reply.error["code"], reply.error["param"]) == (404, "model_not_found", "model")
            assert len(reply.body) < 400


async def test_long_names_in_paths_and_headers_have_short_errors() -> None:
    long = "n" * 10_000
    async with running(backend(), store=MEMORY) as sidecar:
        for method, path in (
            ("GET", f"/v1/models/{long}"),
            ("GET", f"/v1/{long}"),
            ("POST", f"/v1/{long}"),
            ("DELETE", f"/v1/models/{long}"),
            ("GET", f"/v1/responses/{long}"),
            ("GET", f"/v1/conversations/{long}/items/{long}"),
            ("POST", f"/{long}/chat/completions"),
            ("POST", f"/v1/engines/{long}/completions"),
        ):
            body = {"messages": [USER]} if "chat" in path else {"prompt": "x"}
            reply = await sidecar.send(method, path, body)
            assert reply.status in (404, 405), path
            assert len(reply.body) < 500
        reply = await sidecar.send("POST", f"/{long}/chat/completions", {"messages": [USER], "model": "tiny"})
        assert reply.status == 400
        assert len(reply.body) < 500
        encoding = await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, {"content-encoding": long})
        assert encoding.status == 415
        assert len(encoding.body) < 500
        length = await sidecar.send("POST", "/v1/completions", {"prompt": "x"}, {"content-length": "9" * 5000})
        assert length.status == 413


@pytest.mark.parametrize("literal", ["1e400", "-1e400", "9" * 5000, "NaN", "-Infinity"])
async def test_a_literal_that_is_no_finite_number_is_invalid_json(literal: str) -> None:
    async with running(backend()) as sidecar:
        for path, body, field in (
            ("/v1/completions", {"prompt": 'a, "b": {[', "max_tokens": PLACEHOLDER, "n": 1}, "max_tokens"),
            ("/v1/completions", {"prompt": ["a", "b"], "logit_bias": {"1": 2, "5": PLACEHOLDER}}, "logit_bias.5"),
            ("/v1/chat/completions", {"messages": [USER, {"role": PLACEHOLDER}]}, "messages[1].role"),
            ("/v1/embeddings", {"input": [[1, 2], [3, PLACEHOLDER]]}, "input[1][1]"),
            ("/v1/embeddings", {"input": "x" * 20_000, "dimensions": PLACEHOLDER}, "dimensions"),
            ("/v1/embeddings", {"input": '\\"' * 60_000, "dimensions": PLACEHOLDER}, "dimensions"),
            ("/v1/embeddings", {"input": "x" * 300_000, "dimensions": PLACEHOLDER}, None),
            ("/v1/embeddings", {"input": ["x"] * 10_000, "dimensions": PLACEHOLDER}, None),
        ):
            text = json.dumps(body).replace(json.dumps(PLACEHOLDER), literal).encode()
            reply = await sidecar.send("POST", path, text)
            assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "invalid_json", field)


@pytest.mark.parametrize("opening", ['{"a":', '{"type":"object","properties":{"a":', '{"type":"array","items":'])
async def test_json_that_nests_too_deeply_to_be_decoded_names_its_field(opening: str) -> None:
    async with running(backend()) as sidecar:
        for content in ("x", "y" * 100_000):
            body = {"messages": [{"role": "user", "content": content}], "tools": PLACEHOLDER}
            text = json.dumps(body).replace(json.dumps(PLACEHOLDER), opening * 1100)
            reply = await sidecar.send("POST", "/v1/chat/completions", text.encode())
            assert (reply.status, reply.error["param"]) == (400, "tools")


@pytest.mark.parametrize("regex", ["\\", "a\\\\\\"])
async def test_a_regex_that_ends_within_an_escape_is_refused(regex: str) -> None:
    tools = [{"type": "function", "function": FUNCTION}]
    async with running(backend()) as sidecar:
        for reply in (
            await sidecar.complete(prompt="x", regex=regex),
            await sidecar.chat(regex=regex, tools=tools),
        ):
            assert (reply.status, reply.error["param"]) == (400, "regex")
        assert (await sidecar.chat(regex=regex + "\\", tools=tools)).status == 200


async def test_absurd_numbers_in_a_backends_metadata_are_ignored() -> None:
    parameters = {"context_length": "9" * 5000, "vocab_size": "8" * 5000, "size": "7" * 30}
    for loaded_at in ("1e400", "1e300", "-1", "nan", "9" * 5000):
        async with running(FakeWorker(parameters={**parameters, "loaded_at": loaded_at})) as sidecar:
            reply = await sidecar.get("/v1/models")
            assert reply.status == 200, reply.body
            (model,) = reply.json["data"]
            assert model["created"] > 1_700_000_000
            assert "max_model_len" not in model
            assert (await sidecar.complete(prompt="x")).status == 200


GROWING_SCHEMA = '{"enum":[' + ",".join(["1e15"] * 150) + "]}"
"""800 bytes in the request, 2900 compiled."""


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/completions", {"prompt": "x", "json_schema": PLACEHOLDER}, "json_schema"),
        (
            "/v1/completions",
            {"prompt": "x", "response_format": {"type": "json_object", "schema": PLACEHOLDER}},
            "response_format",
        ),
        (
            "/v1/chat/completions",
            {"messages": [USER], "tools": [{"type": "function", "function": {"name": "f", "parameters": PLACEHOLDER}}]},
            "tools[0].function.parameters",
        ),
        (
            "/v1/chat/completions",
            {"messages": [USER], "functions": [{"name": "f", "parameters": PLACEHOLDER}]},
            "functions[0].parameters",
        ),
    ],
)
async def test_the_limit_applies_to_the_compiled_schema(path: str, body: dict[str, Any], param: str) -> None:
    text = json.dumps(body).replace(json.dumps(PLACEHOLDER), GROWING_SCHEMA).encode()
    for limit, status in ((2500, 400), (3000, 200)):
        assert len(text) < limit
        async with running(backend(), max_schema_bytes=limit) as sidecar:
            reply = await sidecar.send("POST", path, text)
            assert reply.status == status, reply.body
            if status == 400:
                assert (reply.error["param"], reply.error["code"]) == (param, "string_above_max_length")
