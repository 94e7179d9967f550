"""`/v1/responses` with tools whose schemas the backend refuses: only `strict: true` makes that an error."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.ops.able_worker import PARAMETERS
from tests.wire.fake_worker import FakeWorker, Refusal, inputs_of, last_token, token, whole
from tests.wire.sidecar import Reply, Sidecar, running

REFUSED_PATTERN = "^[^]*$"
"""Valid in JavaScript alone."""


def function(name: str, **schema: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object", **schema}}


GOOD = function("good", properties={"city": {"type": "string"}})
BAD = function("bad", properties={"path": {"type": "string", "pattern": REFUSED_PATTERN}})


def refusing(part: str = "function bad") -> FakeWorker:
    """A worker that refuses guides with the pattern, and reports the part that has it."""

    def check(request: ModelInferRequest) -> None:
        guide = inputs_of(request).get("lark", [b""])[0].decode()
        if REFUSED_PATTERN in guide:
            details = {contract.ERROR_PART: part} if part else {}
            raise Refusal("INVALID_ARGUMENT", "tensor 'lark': invalid pattern", tensor="lark", **details)

    async def infer(request: ModelInferRequest) -> ModelInferResponse:
        check(request)
        return whole("x")

    async def stream(request: ModelInferRequest) -> AsyncIterator[ModelInferResponse]:
        check(request)
        yield token("x")
        yield last_token()

    return FakeWorker(infer, stream, parameters=PARAMETERS)


async def respond(sidecar: Sidecar, *tools: dict[str, Any], **body: Any) -> Reply:
    return await sidecar.send("POST", "/v1/responses", {"input": "hi", "tools": list(tools), **body})


def strict_tools(reply: Reply) -> list[bool]:
    assert reply.status == 200, reply.body
    response = reply.events[-1]["response"] if reply.body.startswith(b"event") else reply.json
    return [tool["strict"] for tool in response["tools"]]


@pytest.mark.parametrize("strict", [None, False])
@pytest.mark.parametrize("choice", ["auto", "required", {"type": "function", "name": "bad"}])
@pytest.mark.parametrize("part", ["function bad", ""])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_schema_that_the_backend_refuses_is_left_out(
    strict: bool | None, choice: object, part: str, stream: bool
) -> None:
    worker = refusing(part)
    async with running(worker) as sidecar:
        reply = await respond(sidecar, GOOD, {**BAD, "strict": strict}, tool_choice=choice, stream=stream)
    assert strict_tools(reply) == [part != "", False]
    refused, accepted = (inputs_of(request) for request in worker.requests)
    assert refused["prompt"] == accepted["prompt"], "the model reads the schema"
    assert REFUSED_PATTERN in accepted["prompt"][0].decode()
    assert "bad" in accepted.get("lark", [b"bad"])[0].decode()


async def test_a_strict_tool_with_such_a_schema_is_refused() -> None:
    worker = refusing()
    async with running(worker) as sidecar:
        reply = await respond(sidecar, GOOD, {**BAD, "strict": True})
    assert (reply.status, reply.error["param"]) == (400, "tools[1].parameters")
    assert len(worker.requests) == 1


async def test_an_error_in_another_part_of_the_guide_is_reported_at_once() -> None:
    worker = refusing("guide")
    format = {"type": "json_schema", "name": "s", "schema": {"type": "string", "pattern": REFUSED_PATTERN}}
    async with running(worker) as sidecar:
        reply = await respond(sidecar, GOOD, text={"format": format})
    assert (reply.status, reply.error["param"]) == (400, "text.format")
    assert len(worker.requests) == 1


async def test_many_such_schemas_cost_few_attempts() -> None:
    async def refuse(request: ModelInferRequest) -> ModelInferResponse:
        guide = inputs_of(request)["lark"][0].decode()
        for i in range(100):
            if f'"p{i}"' in guide:
                details = {contract.ERROR_PART: f"function f{i}"}
                raise Refusal("INVALID_ARGUMENT", "tensor 'lark': no", tensor="lark", **details)
        return whole("x")

    worker = FakeWorker(refuse, parameters=PARAMETERS)
    tools = [function(f"f{i}", properties={f"p{i}": {"type": "string"}}) for i in range(100)]
    async with running(worker) as sidecar:
        reply = await respond(sidecar, *tools, tool_choice="required", parallel_tool_calls=False)
    assert not any(strict_tools(reply))
    assert len(worker.requests) < 10


@pytest.mark.parametrize("choice", ["auto", "required"])
async def test_schemas_that_are_too_long_together_are_left_out(choice: str) -> None:
    names = {f"{'property' * 10}{i}": {"type": "string"} for i in range(50)}
    tools = [function(f"f{i}", properties=names) for i in range(60)]
    worker = refusing()
    async with running(worker) as sidecar:
        reply = await respond(sidecar, *tools, tool_choice=choice)
        strict = await respond(sidecar, *({**tool, "strict": True} for tool in tools), tool_choice=choice)
    assert not any(strict_tools(reply))
    assert ("lark" in inputs_of(worker.requests[0])) == (choice == "required")
    assert (strict.status, strict.error["param"]) == (400, "tools")
