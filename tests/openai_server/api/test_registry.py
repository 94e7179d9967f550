"""An entry in the registry adds an endpoint to routes, keys, metrics, logs and OpenAPI."""

import logging
from functools import partial

import pytest
from msgspec import Struct

from openai_server.access.caps import Caps
from openai_server.api import endpoint, registry
from openai_server.api.bodies.parsers import name_of, named
from openai_server.api.endpoint import Description, Endpoint, Example, RequestType, with_v1
from openai_server.api.registry import ENDPOINTS
from openai_server.api.schemas import Fields, convert, load, mapped
from openai_server.api.tasks import Task, TaskHandler
from openai_server.telemetry.observer import Observer
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import running

# ---- A new endpoint


class EchoRequest(Struct):
    text: str
    model: str | None = None
    n: int | None = None


class Echo(Struct):
    text: str


ECHO_FIELDS = Fields(mapped(EchoRequest), neutral={"voice": ("plain",)})


def parse(body: bytes, _: Caps) -> EchoRequest:
    payload = load(body)
    ECHO_FIELDS.clean(payload)
    return convert(payload, EchoRequest)


async def echo(_: Task, request: EchoRequest) -> Echo:
    return Echo(request.text * (request.n or 1))


def toy(*, is_open: bool) -> Endpoint:
    return Endpoint(
        paths=(*with_v1("/echo"), "/{model}/echo"),
        method="POST",
        handler=partial(TaskHandler, parse=parse, work=echo, id_prefix="echo-"),
        operation="echo",
        is_open=is_open,
        description=Description(
            tag="Texts",
            summary="The same text",
            requests=[RequestType("echo", EchoRequest, ECHO_FIELDS)],
            examples={"text": Example("A text", {"text": "a"})},
            answers=[Echo],
            example={"text": "a"},
            errors=endpoint.WORK,
        ),
    )


# ---- Effects of the entry


@pytest.mark.parametrize("is_open", [False, True])
async def test_a_new_endpoint_needs_only_an_entry(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, is_open: bool
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(registry, "ENDPOINTS", (*ENDPOINTS, toy(is_open=is_open)))
    observer = Observer(log_access=True)
    async with running(FakeWorker(), observer=observer, api_key=("right",)) as sidecar:
        key = {"authorization": "Bearer right"}
        for path in ("/v1/echo", "/echo", "/tiny/echo"):
            reply = await sidecar.send("POST", path, {"text": "a", "n": 2}, key)
            assert (reply.status, reply.json) == (200, {"text": "aa"})
        assert (await sidecar.send("GET", "/echo", None, key)).headers["allow"] == "POST"
        assert (await sidecar.send("POST", "/echo", {"text": "a"})).status == (200 if is_open else 401)
        document = (await sidecar.get("/openapi.json")).json
    observer.report()
    assert b'openai_server_requests_total{endpoint="/v1/echo",model="",status="200"}' in observer.metrics.text()
    assert b'gen_ai_operation_name="echo"' in observer.metrics.text()
    lines = [record.__dict__["fields"] for record in caplog.records if record.name == "openai_server.access"]
    assert [line["endpoint"] for line in lines[:5]] == ["/v1/echo"] * 5
    operation = document["paths"]["/v1/echo"]["post"]
    assert operation["summary"] == "The same text"
    assert (operation.get("security") == []) == is_open
    assert document["components"]["schemas"]["EchoRequest"]["properties"].keys() == {"text", "model", "n", "voice"}
    assert document["components"]["schemas"]["Echo"]["required"] == ["text"]


def test_its_parser_can_run_in_a_helper_process() -> None:
    assert named(name_of(parse)) is parse


def test_every_method_and_path_has_one_endpoint() -> None:
    answered = [(entry.method, path) for entry in ENDPOINTS for path in entry.paths]
    assert len(set(answered)) == len(answered)


def test_only_probes_metrics_and_documentation_are_open() -> None:
    names = {entry.name for entry in ENDPOINTS if entry.is_open}
    assert names == {"/livez", "/readyz", "/health", "/metrics", "/openapi.json", "/docs"}
    assert {entry.name for entry in ENDPOINTS if not entry.is_logged} == names - {"/openapi.json", "/docs"}
    assert {entry.name for entry in ENDPOINTS if entry.is_administration} == names - {"/openapi.json", "/docs"}


def test_the_reference_page_has_few_sections() -> None:
    tags = {description.tag for entry in ENDPOINTS if (description := entry.described()) is not None}
    assert tags == {"Generation", "Stored responses", "Conversations", "Files", "Batches", "Texts", "Models", "Server"}
