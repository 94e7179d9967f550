"""How a JSON Schema reaches the backend: objects without `additionalProperties` are closed; it's lenient unless
strict."""

import json
from typing import Any

import pytest

from tests.wire.fake_worker import ALL_INPUTS, FakeWorker, inputs_of, streams, token, whole
from tests.wire.fake_worker import answers as always
from tests.wire.fake_worker import last_token as end
from tests.wire.sidecar import Sidecar, running

pytestmark = pytest.mark.usefixtures("both_kinds_of_stream")

POINT: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {"type": "integer", "default": None}, "tags": {"type": "array", "uniqueItems": True}},
    "required": ["x"],
    "not": {"required": ["y"]},
}
PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"at": {"$ref": "#/$defs/Point"}, "kind": {"enum": ["a", None]}},
    "required": ["at"],
    "$defs": {"Point": {key: value for key, value in POINT.items() if key != "not"}},
}
CLOSED: dict[str, Any] = {
    **PERSON,
    "additionalProperties": False,
    "$defs": {"Point": {**PERSON["$defs"]["Point"], "additionalProperties": False}},
}


def named(schema: dict[str, Any], **options: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, **options}}}


FORMS: dict[str, tuple[dict[str, Any], bool]] = {
    "json_schema": (named(PERSON), True),
    "json_schema, not strict": (named(PERSON, strict=False), True),
    "json_schema, strict null": (named(PERSON, strict=None), True),
    "json_schema, strict": (named(PERSON, strict=True), False),
    "json_object with a schema": ({"response_format": {"type": "json_object", "schema": PERSON}}, True),
    "llama-server's field": ({"json_schema": PERSON}, True),
}
"""The request's fields, and whether constraints that can't be enforced may be left out."""


async def tensors_for(worker: FakeWorker, **body: Any) -> list[dict[str, Any]]:
    """Returns the tensors that the worker receives for a completion and a chat, each streamed and whole."""
    async with running(worker) as sidecar:
        for stream in (False, True):
            for reply in (
                await sidecar.complete(prompt="p", stream=stream, **body),
                await sidecar.chat(stream=stream, **body),
            ):
                assert reply.status == 200, reply.body
    return [inputs_of(request) for request in worker.requests]


@pytest.mark.parametrize("form", FORMS)
async def test_every_form_is_closed_and_lenient_unless_strict(form: str) -> None:
    body, lenient = FORMS[form]
    for tensors in await tensors_for(FakeWorker(always(whole("{}")), streams(token("{}"), end())), **body):
        assert json.loads(tensors["json_schema"][0]) == CLOSED
        assert tensors.get("lenient_schema") == ([True] if lenient else None)


async def test_a_schema_that_states_its_additional_properties_stays_as_it_is() -> None:
    schemas: list[dict[str, Any]] = [
        POINT,
        {"type": "object"},
        {"type": "object", "properties": {"a": None}, "additionalProperties": None},
        {"anyOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object", "properties": {"b": {}}}]},
    ]
    for schema in schemas:
        for tensors in await tensors_for(FakeWorker(), **named(schema)):
            assert tensors["json_schema"] == [json.dumps(schema, separators=(",", ":")).encode()]


async def test_a_json_object_without_a_schema_stays_open() -> None:
    for tensors in await tensors_for(FakeWorker(), response_format={"type": "json_object"}):
        assert tensors["json_schema"] == [b'{"type":"object"}']


async def test_other_backends_get_the_closed_schema_alone() -> None:
    inputs = [name for name in ALL_INPUTS if name not in ("lenient_schema", "lark", "mark_end", "mark_begin")]
    for tensors in await tensors_for(FakeWorker(inputs=inputs), json_schema=PERSON):
        assert json.loads(tensors["json_schema"][0]) == CLOSED
        assert "lenient_schema" not in tensors


async def test_a_backend_without_a_list_of_inputs_gets_only_requested_tensors() -> None:
    for tensors in await tensors_for(FakeWorker(unimplemented=["ModelMetadata"]), json_schema=PERSON):
        assert json.loads(tensors["json_schema"][0]) == CLOSED
        assert "lenient_schema" not in tensors


async def test_each_prompt_gets_the_schema() -> None:
    worker = FakeWorker()
    async with running(worker) as sidecar:
        assert (await sidecar.complete(prompt=["a", "b", "c"], json_schema=PERSON)).status == 200
    assert [json.loads(inputs_of(request)["json_schema"][0]) for request in worker.requests] == [CLOSED] * 3


async def test_the_field_is_refused_if_the_backend_takes_no_schema() -> None:
    async with running(FakeWorker(inputs=["prompt", "max_tokens", "lenient_schema"])) as sidecar:
        reply = await sidecar.complete(prompt="p", **named(PERSON))
    assert (reply.status, reply.error["param"]) == (400, "response_format")


# ---- In grammars: beside tools, after reasoning, and for arguments


async def grammar(sidecar: Sidecar, worker: FakeWorker, **body: Any) -> str:
    reply = await sidecar.chat(**body)
    assert reply.status == 200, reply.body
    lark: bytes = inputs_of(worker.requests[-1])["lark"][0]
    return lark.decode()


def schemas_in(lark: str) -> list[dict[str, Any]]:
    return [json.loads(line.partition("%json ")[2]) for line in lark.splitlines() if "%json " in line]


@pytest.mark.parametrize("form", FORMS)
async def test_a_response_format_beside_tools_is_closed_and_lenient_unless_strict(form: str) -> None:
    body, lenient = FORMS[form]
    worker = FakeWorker(always(whole("{}")))
    async with running(worker) as sidecar:
        lark = await grammar(sidecar, worker, tools=[{"type": "function", "function": {"name": "f"}}], **body)
    [schema] = schemas_in(lark)
    options = schema.pop("x-guidance")
    assert schema == CLOSED
    assert options["lenient"] is lenient


@pytest.mark.parametrize("strict", [None, False, True])
async def test_arguments_of_a_call_are_closed_and_lenient_unless_strict(strict: bool | None) -> None:
    function = {"name": "f", "parameters": PERSON, "strict": strict}
    worker = FakeWorker(always(whole("{}")))
    async with running(worker) as sidecar:
        lark = await grammar(
            sidecar, worker, tools=[{"type": "function", "function": function}], tool_choice="required"
        )
    [schema] = schemas_in(lark)
    options = schema.pop("x-guidance")
    assert schema == CLOSED
    assert options["lenient"] is not bool(strict)


async def test_the_template_shows_a_tools_parameters_as_they_were_sent() -> None:
    worker = FakeWorker(parameters={"chat_template": "{{ tools | tojson }}{{ '<tool_call>' }}"})
    function = {"name": "f", "parameters": PERSON}
    async with running(worker) as sidecar:
        reply = await sidecar.chat(tools=[{"type": "function", "function": function}])
    assert reply.status == 200, reply.body
    assert b"additionalProperties" not in inputs_of(worker.requests[-1])["prompt"][0]
