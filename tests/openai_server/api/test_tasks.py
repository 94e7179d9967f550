"""The handler of tasks other than generation, with a fake catalog."""

import json
from functools import partial
from typing import Any

import pytest
from msgspec import Struct

from openai_server.access.caps import Caps
from openai_server.api.tasks import Task, TaskHandler
from openai_server.api.usage import TaskUsage
from openai_server.core.errors import APIError, BackendError, InvalidRequest
from tests.openai_server.api.fakes import FakeAccess, FakeBodies, request_context, services


class Request(Struct):
    model: str | None = None


class Answer(Struct):
    id: str
    usage: TaskUsage | None


class FakeModel:
    name = "m"

    def require(self, task: str) -> None:
        if task != "embed":
            raise InvalidRequest(f"can't {task}")


class FakeCatalog:
    """A catalog with a model on several servers; the first `n_failing` fail."""

    def __init__(self, n_failing: int = 0, n_servers: int = 1) -> None:
        self.left_out: list[frozenset[int]] = []
        self._n_failing = n_failing
        self._n_servers = n_servers

    async def use(self, name: str | None, failed: frozenset[int], work: Any) -> Any:
        self.left_out.append(failed)
        if len(failed) < self._n_failing:
            raise BackendError("UNAVAILABLE", "gone")
        return await work(FakeModel())

    async def retry(self, _: BackendError, name: str | None, failed: frozenset[int]) -> frozenset[int] | None:
        return failed | {len(failed)} if len(failed) + 1 < self._n_servers else None

    def context_length(self, _: str | None) -> int | None:
        return None


def parse(body: bytes, _: Caps) -> Request:
    return Request(**json.loads(body))


async def work(task: Task, request: Request, *, usage: TaskUsage | None = None, kind: str = "embed") -> Answer:
    async def with_model(model: Any) -> Answer:
        return Answer(task.id, usage)

    return await task.perform(kind, request.model, with_model, {})


def handler(catalog: FakeCatalog | None = None, **options: Any) -> TaskHandler[Request]:
    fake_services = services(bodies=FakeBodies(b'{"model":"m"}   '), catalog=catalog or FakeCatalog())
    return TaskHandler(fake_services, parse=parse, work=partial(work, **options), id_prefix="x-")


async def test_an_endpoint_may_cost_no_tokens() -> None:
    """The estimate for its prompt is then 0, which `used` without a number charges."""
    fake_services = services(bodies=FakeBodies(b'{"model":"m"}   '), catalog=FakeCatalog())
    free = TaskHandler(fake_services, parse=parse, work=work, id_prefix="x-", costs_tokens=False)
    await free(request_context(access := FakeAccess()))
    assert access.calls == ["count_request", "enter", ("used", None), "leave"]


@pytest.mark.parametrize("usage", [None, TaskUsage(5, 5)])
async def test_an_answer_counts_the_tokens_of_its_usage(usage: TaskUsage | None) -> None:
    context = request_context(access := FakeAccess())
    response: Any = await handler(usage=usage)(context)
    assert json.loads(response.body)["id"].startswith("x-")
    n_used = None if usage is None else 5
    assert access.calls == ["count_request", ("reserve", 4, 0), "enter", ("used", n_used), "leave"]
    assert context.model == "m"
    assert (context.usage and context.usage.prompt) == n_used


async def test_a_failed_request_is_retried_on_another_server() -> None:
    catalog = FakeCatalog(n_failing=2, n_servers=3)
    await handler(catalog)(request_context())
    assert catalog.left_out == [frozenset(), {0}, {0, 1}]


async def test_the_last_failure_is_returned() -> None:
    with pytest.raises(APIError) as caught:
        await handler(FakeCatalog(n_failing=2, n_servers=2))(request_context())
    assert caught.value.status == 503


async def test_a_model_without_the_task_is_an_error() -> None:
    context = request_context(access := FakeAccess())
    with pytest.raises(InvalidRequest):
        await handler(kind="rank")(context)
    assert access.calls[-1] == "leave"
    assert context.model == "m"
