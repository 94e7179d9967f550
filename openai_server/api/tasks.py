"""Requests that generate nothing, to the backend and back: a call for each of their texts."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from openai_server.access.turns import FairThreads
from openai_server.api import responses_tasks
from openai_server.api.chat_message import JsonObject
from openai_server.api.generation import gather, spread
from openai_server.api.schemas_tasks import (
    ContentToTokenize,
    DetokenizeRequest,
    EmbeddingRequest,
    MessagesToTokenize,
    RerankRequest,
    TaskRequest,
    TokenizeRequest,
)
from openai_server.backends.catalog import Catalog
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.dialects.base import Target
from openai_server.backends.directory import Failed, Model
from openai_server.backends.pool import Pool
from openai_server.core.context_length import Room
from openai_server.core.errors import BackendError, from_backend
from openai_server.core.turn import Turn
from openai_server.prompting.plain_fields import ChatPrompt
from openai_server.prompting.planner import ChatPlanner
from openai_server.telemetry import record
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

T = TypeVar("T")
MANY_TOKENS = 4096
"""Tokens of a text; the answer with more of them is built in a thread."""


class Tasks:
    """Each method gives the object of the answer, and raises APIError. `id` is that of the request."""

    def __init__(self, pool: Pool, catalog: Catalog, planner: ChatPlanner, threads: FairThreads) -> None:
        self._pool = pool
        self._catalog = catalog
        self._planner = planner
        self._threads = threads

    async def embed(self, request: EmbeddingRequest, id: str) -> JsonObject:
        def read(response: ModelInferResponse) -> tuple[Any, int | None]:
            elements, n_tokens = decode.embedding(response)
            return responses_tasks.vector(elements, request), n_tokens

        async def work(model: Model) -> JsonObject:
            prompts, options = request.prompts, request.options
            calls = await spread(encode_tasks.embed(prompt, options, to) for prompt, to in _each(prompts, model, id))
            results = await self._infer(calls, model, read)
            return responses_tasks.embeddings(model.name, *_columns(results))

        return await self._perform(contract.TASK_EMBED, request, work, encode_tasks.EMBEDDING_PARAMS)

    async def rerank(self, request: RerankRequest, id: str) -> JsonObject:
        async def work(model: Model) -> JsonObject:
            texts = request.texts
            calls = await spread(
                encode_tasks.rank(request.query, text, request.priority, to) for text, to in _each(texts, model, id)
            )
            results = await self._infer(calls, model, decode.score)
            return responses_tasks.rerank(id, model.name, request, *_columns(results))

        return await self._perform(contract.TASK_RANK, request, work, encode_tasks.RERANK_PARAMS)

    async def tokenize(self, request: TokenizeRequest, id: str) -> JsonObject:
        options = request.options
        params = {contract.TEXT_TO_TOKENIZE.name: options.names["text"]}

        async def work(model: Model) -> JsonObject:
            if isinstance(request, MessagesToTokenize):
                prompt = await self._planner.prompt(request.turn(), model.parameters, model.input_names)
            else:
                prompt = ChatPrompt(request.content if isinstance(request, ContentToTokenize) else request.prompt)
            call = encode_tasks.tokenize(prompt.text, prompt.plain, options, Target(model.name, model.input_names, id))
            [(ids, pieces)] = await self._infer([call], model, decode.tokens)
            if len(ids) > MANY_TOKENS:  # an object for each of their pieces takes long
                return await self._threads.run(responses_tasks.tokens, request, ids, pieces, model.context_length)
            return responses_tasks.tokens(request, ids, pieces, model.context_length)

        return await self._perform(contract.TASK_TOKENIZE, request, work, params)

    async def detokenize(self, request: DetokenizeRequest, id: str) -> JsonObject:
        async def work(model: Model) -> JsonObject:
            call = encode_tasks.detokenize(request.tokens, Target(model.name, model.input_names, id))
            [text] = await self._infer([call], model, decode.text)
            return responses_tasks.text(text)

        return await self._perform(contract.TASK_DETOKENIZE, request, work, encode_tasks.DETOKENIZE_PARAMS)

    async def apply_template(self, request: Turn, id: str) -> JsonObject:
        """What the model would read: the backend has nothing to do."""

        async def work(model: Model) -> JsonObject:
            prompt = await self._planner.prompt(request, model.parameters, model.input_names)
            return {"prompt": prompt.text}

        return await self._perform(contract.TASK_GENERATE, request, work, {})

    # ---- Inside

    async def _infer(
        self, calls: list[ModelInferRequest], model: Model, read: Callable[[ModelInferResponse], T]
    ) -> list[T]:
        async def one(call: ModelInferRequest) -> T:
            return read(await self._pool.infer(call, model.members))

        return await gather([one(call) for call in calls])

    async def _perform(
        self,
        task: str,
        request: TaskRequest | Turn,
        work: Callable[[Model], Coroutine[Any, Any, JsonObject]],
        params: Mapping[str, str],
    ) -> JsonObject:
        """`params`: tensor → the field that it came from."""

        async def perform(model: Model) -> JsonObject:
            record.current().model = model.name
            model.require(task)
            return await work(model)

        failed: Failed = frozenset()
        while True:
            try:
                return await self._catalog.use(request.model, failed, perform)
            except BackendError as error:
                if (left_out := await self._catalog.retry(error, request.model, failed)) is None:
                    fills = task in (contract.TASK_EMBED, contract.TASK_RANK)
                    room = Room(self._catalog.context_length(request.model)) if fills else None
                    raise from_backend(error, params, room) from error
                failed = left_out


def _each(texts: Sequence[T], model: Model, id: str) -> list[tuple[T, Target]]:
    """Each text with the target of its call."""
    ids = [f"{id}-{k}" for k in range(len(texts))] if len(texts) > 1 else [id]
    return [(text, Target(model.name, model.input_names, id)) for text, id in zip(texts, ids, strict=True)]


def _columns(results: list[tuple[Any, int | None]]) -> tuple[list[Any], list[int | None]]:
    return [result for result, _ in results], [n_tokens for _, n_tokens in results]
