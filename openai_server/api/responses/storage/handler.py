"""Handles requests of `/v1/responses` on a server with a store: what is stored is stored before it is announced."""

import asyncio
from collections.abc import Callable
from typing import Any

from msgspec.structs import replace
from starlette.responses import Response

from openai_server.api.answers import AnswerIdentity, WholeAnswer
from openai_server.api.generation_handler import Generation, GenerationHandler
from openai_server.api.responses.answer import ResponseObject
from openai_server.api.responses.background.queueing import queue
from openai_server.api.responses.output.response_stream import ResponseStream
from openai_server.api.responses.output.state import in_progress
from openai_server.api.responses.retrieval.answer import response_object, usage_of
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage.history import input_items
from openai_server.api.responses.storage.keeping import AppendedItems, Keeping, StoredResponse, new_response
from openai_server.api.responses.stored_view import ENCRYPTED
from openai_server.api.services import Services
from openai_server.core.errors import (
    APIError,
    BackendError,
    InternalError,
    ShuttingDown,
    UnsupportedParameter,
    from_backend,
)
from openai_server.core.store_errors import ResponseNotFound
from openai_server.core.tiers import BATCH
from openai_server.http.json_response import JSONResponse
from openai_server.http.streaming import EXCHANGE, EventWriter, Exchange
from openai_server.parsing.choice_reader import AnswerFormat
from openai_server.store.store import Store

NewStream = Callable[[AnswerIdentity, ResponsesRequest, AnswerFormat | None], ResponseStream]

SETTLE_SECONDS = 1.0
"""Time in which the store should answer before a failure is announced."""


class StoringHandler(GenerationHandler[ResponsesRequest]):
    """`new_stream` creates the writer of a stream; the other settings are those of GenerationHandler."""

    def __init__(self, services: Services, store: Store, new_stream: NewStream, **settings: Any) -> None:
        super().__init__(services, writer=new_stream, **settings)
        self._store = store
        self._new_stream = new_stream

    async def _without_generating(self, generation: Generation[ResponsesRequest]) -> Response | None:
        request, context = generation.request, generation.context
        if not request.use.background:
            return await self._stored(generation) if context.answer_key and request.settings.store else None
        if context.tier is BATCH:
            raise UnsupportedParameter("background", "'background' is not supported in the lines of a batch.")
        return await queue(self._services, generation)

    async def _stored(self, generation: Generation[ResponsesRequest]) -> Response | None:
        """The response that an earlier run of a line has stored, whose result was not; None: there is none."""
        request, context = generation.request, generation.context
        try:
            stored = await self._store.response(context.access.owner, generation.id)
        except ResponseNotFound:
            return None
        context.model = stored.model
        context.take_answer(usage_of(stored))
        seal = self._services.sealer.sealing("reasoning", stored.model) if ENCRYPTED in request.include else None
        return JSONResponse(response_object(stored, request.include, seal))

    async def _whole(self, generation: Generation[ResponsesRequest]) -> WholeAnswer:
        answer = await super()._whole(generation)
        response = answer.content
        if not isinstance(response, ResponseObject):
            return answer  # a compacted conversation, which is never stored
        keeping = await self._keeping(generation, response)
        if keeping is None:
            return answer
        response = await keeping.finish(response)
        if not response.store:
            self._settle(keeping, None)
        return answer._replace(content=response)

    async def _stream(self, generation: Generation[ResponsesRequest], writer: EventWriter) -> bytes:
        context = generation.context
        async with context.access:
            keeping = await self._begun(generation)
            if keeping is None:
                return await self._generate(generation, writer, self._new_stream)
            stream: ResponseStream | None = None

            def new_stream(
                identity: AnswerIdentity, request: ResponsesRequest, format: AnswerFormat | None
            ) -> ResponseStream:
                nonlocal stream
                stream = self._new_stream(identity, request, format)
                stream.ends_later = True
                return stream

            try:
                last = await self._generate(generation, writer, new_stream)
                assert stream is not None
                assert stream.response is not None
                stream.response = await keeping.finish(stream.response)
                if not stream.response.store:
                    self._settle(keeping, None)
                return last + stream.last()
            except asyncio.CancelledError:
                response = None
                if stream is not None and writer.is_started:
                    exchange: Exchange = context.scope[EXCHANGE]
                    response = stream.cancelled() if exchange.is_gone else stream.failed(ShuttingDown())
                self._settle(keeping, response)
                raise
            except Exception as error:
                response = None
                if stream is not None and writer.is_started:
                    response = stream.failed(error if isinstance(error, APIError) else InternalError())
                await asyncio.wait((self._settle(keeping, response),), timeout=SETTLE_SECONDS)
                raise

    async def _begun(self, generation: Generation[ResponsesRequest]) -> Keeping | None:
        """The store's side of a stream, with the response in the store if it will be stored. Raises APIError."""
        request = generation.request
        try:
            model = await self._services.catalog.resolve(request.turn.model)
        except BackendError as error:
            raise from_backend(error, {}) from error
        identity = AnswerIdentity(generation.id, generation.created, model.name)
        keeping = await self._keeping(generation, in_progress(identity, request.settings))
        if isinstance(keeping, StoredResponse) and not await keeping.begin():
            self._settle(keeping, None)
            generation.request = replace(request, settings=replace(request.settings, store=False))
            return None
        return keeping

    async def _keeping(self, generation: Generation[ResponsesRequest], response: ResponseObject) -> Keeping | None:
        """None: nothing is stored."""
        request, context = generation.request, generation.context
        conversation_id = request.use.base.conversation_id
        if not request.settings.store and conversation_id is None:
            return None
        items, owner = await input_items(self._services, request, context), context.access.owner
        if request.settings.store:
            return StoredResponse(self._store, request.use, new_response(owner, request, response, items))
        assert conversation_id is not None
        return AppendedItems(self._store, owner, conversation_id, items, may_be_repeated=bool(context.answer_key))

    def _settle(self, keeping: Keeping, response: ResponseObject | None) -> asyncio.Task[None]:
        """Stores in a task of its own, which the client's departure doesn't cancel."""
        task = asyncio.create_task(keeping.settle(response))
        self._services.storing.add(task)
        task.add_done_callback(self._services.storing.discard)
        return task
