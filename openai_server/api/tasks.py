"""The handler of endpoints that generate nothing (embeddings, rerank, tokens): one call to the backend per text."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from os import urandom
from typing import Any, Generic, Protocol, TypeVar

from starlette.responses import Response

from openai_server.api.bodies.parsers import Parse
from openai_server.api.generation import gather
from openai_server.api.in_tier import takes_priority
from openai_server.api.model_in_path import take_model_from_path
from openai_server.api.prompt_estimate import prompt_tokens
from openai_server.api.services import Services
from openai_server.api.usage import TaskUsage
from openai_server.backends.dialects.base import Target
from openai_server.backends.directory import Failed, Model
from openai_server.core.context_length import Room
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.request_context import RequestContext
from openai_server.core.turn import Prompt
from openai_server.core.usage import Usage
from openai_server.http.json_response import JSONResponse
from openai_server.http.streaming import unless_gone
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

T = TypeVar("T")
A = TypeVar("A")


class TaskRequest(Protocol):
    model: str | None


R = TypeVar("R", bound=TaskRequest)


@dataclass(slots=True)
class Task:
    """One request in progress. `id` is the id of its answer."""

    services: Services
    context: RequestContext
    id: str

    async def perform(
        self,
        task: str,
        model: str | None,
        work: Callable[[Model], Coroutine[Any, Any, A]],
        params: Mapping[str, str],
    ) -> A:
        """The result of `work` with the model, which must be able to do `task`, on the first server that doesn't fail.

        `params`: tensor → the field that it came from. Raises APIError.
        """
        catalog = self.services.catalog

        async def with_model(found: Model) -> A:
            self.context.model = found.name
            found.require(task)
            return await work(found)

        failed: Failed = frozenset()
        while True:
            try:
                return await catalog.use(model, failed, with_model)
            except BackendError as error:
                if (left_out := await catalog.retry(error, model, failed)) is None:
                    fills = task in (contract.TASK_EMBED, contract.TASK_RANK)
                    room = Room(catalog.context_length(model)) if fills else None
                    raise from_backend(error, params, room) from error
                failed = left_out

    async def infer(
        self, calls: Sequence[ModelInferRequest], model: Model, read: Callable[[ModelInferResponse], T]
    ) -> list[T]:
        """The responses to the calls, each converted by `read`."""

        async def result(call: ModelInferRequest) -> T:
            return read(await self.services.pool.infer(call, model.members, model.name))

        return await gather([result(call) for call in calls])

    def priority(self, requested: int | None, model: Model) -> int | None:
        """The priority to send for a request with this field; None: the default."""
        return self.context.tier.priority_of(requested) if takes_priority(model) else requested

    def target(self, model: Model) -> Target:
        """The target of the only call."""
        name, version = model.address
        return Target(name, model.input_names, self.id, version)

    def with_targets(self, texts: Sequence[T], model: Model) -> list[tuple[T, Target]]:
        """Each text with the target of its call."""
        ids = [f"{self.id}-{k}" for k in range(len(texts))] if len(texts) > 1 else [self.id]
        name, version = model.address
        return [(text, Target(name, model.input_names, id, version)) for text, id in zip(texts, ids, strict=True)]


def columns(results: Sequence[tuple[Any, int | None]]) -> tuple[list[Any], list[int | None]]:
    """Results, and the token counts of their texts."""
    return [result for result, _ in results], [n_tokens for _, n_tokens in results]


Work = Callable[[Task, R], Coroutine[Any, Any, Any]]
"""Returns the answer, a Struct. The tokens in its `usage` count against the caller's limit. Raises APIError."""


class TaskHandler(Generic[R]):
    """Handles one endpoint's requests. `prompts` returns a request's prompts if they may be token ids, `id_prefix` is
    the prefix of an answer's id. `costs_tokens`: whether its texts count against the caller's tokens per minute."""

    def __init__(
        self,
        services: Services,
        *,
        parse: Parse[R],
        work: Work[R],
        id_prefix: str,
        prompts: Callable[[R], Sequence[Prompt]] = lambda _: (),
        costs_tokens: bool = True,
    ) -> None:
        self._services = services
        self._parse = parse
        self._work = work
        self._id_prefix = id_prefix
        self._prompts = prompts
        self._costs_tokens = costs_tokens

    async def __call__(self, context: RequestContext) -> Response:
        """Raises APIError, ClientDisconnect and ClientGone."""
        context.access.count_request()
        request, body_size = await self._services.bodies.read(self._parse, context)
        take_model_from_path(request, context)
        if self._costs_tokens:
            context.access.reserve(prompt_tokens(self._prompts(request), body_size), 0)
        task = Task(self._services, context, self._id_prefix + urandom(16).hex())
        return JSONResponse(await unless_gone(context.scope, self._perform(task, request)))

    async def _perform(self, task: Task, request: R) -> Any:
        context = task.context
        async with context.access:
            answer = await self._work(task, request)
            usage: TaskUsage | None = getattr(answer, "usage", None)
            if usage is not None:
                context.take_answer(Usage(usage.prompt_tokens, 0, None))
            context.access.used(None if usage is None else usage.total_tokens)
            return answer
