"""Handlers of completions and chats, with a fake generator."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from openai_server.api.chat.endpoint import CHAT
from openai_server.api.completions.endpoint import COMPLETIONS
from openai_server.core.errors import APIError, InvalidRequest, Overloaded, RateLimited
from openai_server.core.request_context import RequestContext
from openai_server.http.streaming import EventStream, EventWriter
from tests.openai_server.api.fakes import FakeAccess, FakeBodies, request_context, services
from tests.openai_server.api.generated import ANSWER, MODEL
from tests.openai_server.exchange import FakeExchange


class FakeGenerator:
    """Returns one answer for each prompt, or streams one event."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    async def answer(self, request: Any, id: str, _: RequestContext) -> Any:
        self.requests.append(request)
        return MODEL, [ANSWER]

    async def stream(
        self,
        request: Any,
        id: str,
        _: RequestContext,
        writer_for: Callable[..., Any],
        writer: EventWriter,
        delivered: Callable[..., None],
    ) -> bytes:
        self.requests.append(request)
        await writer.write(b"data: " + id.encode() + b"\n\n")
        delivered([ANSWER.usage], 1, 2)
        return b"data: [DONE]\n\n"


async def handled(
    body: dict[str, Any],
    access: FakeAccess | None = None,
    *,
    endpoint: Any = COMPLETIONS,
    generator: FakeGenerator | None = None,
    **fields: Any,
) -> tuple[Any, RequestContext]:
    """Handles a request; returns the response and the context."""
    fake_services = services(bodies=FakeBodies(json.dumps(body).encode()), generator=generator or FakeGenerator())
    context = request_context(access, **fields)
    return await endpoint.handler(fake_services)(context), context


async def streamed(response: EventStream) -> bytes:
    parts: list[bytes] = []

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    async def receive() -> Any:
        raise AssertionError("the stream is over sooner")

    await response(FakeExchange().scope, receive, send)
    return b"".join(parts)


@pytest.mark.parametrize(
    ("endpoint", "body", "prefix", "kind"),
    [
        (COMPLETIONS, {"prompt": "x"}, "cmpl-", "text_completion"),
        (CHAT, {"messages": [{"role": "user", "content": "x"}]}, "chatcmpl-", "chat.completion"),
    ],
)
async def test_a_whole_answer_has_the_id_and_type_of_its_endpoint(
    endpoint: Any, body: dict[str, Any], prefix: str, kind: str
) -> None:
    response, context = await handled(body, endpoint=endpoint)
    answer = json.loads(response.body)
    assert answer["id"].startswith(prefix)
    assert (answer["object"], answer["created"], answer["model"]) == (kind, 5, "m")
    assert (context.usage, context.finish_reasons) == (ANSWER.usage, ["stop"])


async def test_access_is_checked_in_order() -> None:
    access = FakeAccess(is_limited=True)
    await handled({"prompt": "x" * 90, "max_tokens": 7}, access)
    assert access.calls == [
        "count_request",
        ("reserve", 30, 7),
        "enter",
        ("delivered", [ANSWER.usage], 1, 0),
        "leave",
    ]


@pytest.mark.parametrize(("step", "error"), [("count_request", RateLimited("later", 1)), ("enter", Overloaded())])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_rejected_request_generates_nothing(step: str, error: APIError, stream: bool) -> None:
    access = FakeAccess(refusals={step: error})
    generator = FakeGenerator()

    async def answered() -> None:
        response, _ = await handled({"prompt": "x", "stream": stream}, access, generator=generator)
        await streamed(response)

    with pytest.raises(type(error)):
        await answered()
    assert not generator.requests
    assert "leave" not in access.calls


async def test_a_stream_holds_its_slot_until_its_end() -> None:
    access = FakeAccess()
    generator = FakeGenerator()
    response, _ = await handled({"prompt": "x", "stream": True}, access, generator=generator)
    assert access.calls == ["count_request"]
    assert not generator.requests
    assert (await streamed(response)).startswith(b"data: cmpl-")
    assert access.calls == ["count_request", "enter", ("delivered", [ANSWER.usage], 1, 2), "leave"]


async def test_the_model_may_be_in_the_path() -> None:
    generator = FakeGenerator()
    await handled({"prompt": "x"}, generator=generator, parameters={"model": "org/name"})
    assert generator.requests[0].model == "org/name"
    with pytest.raises(InvalidRequest) as caught:
        await handled({"prompt": "x", "model": "other"}, parameters={"model": "org/name"})
    assert caught.value.param == "model"
