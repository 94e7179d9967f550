"""Generates a background response: what an HTTP request does for one in the foreground."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

from msgspec.structs import replace

from openai_server.access.keys import Caller
from openai_server.api.answers import AnswerIdentity
from openai_server.api.generation import ResolvedModel
from openai_server.api.generation_handler import output_limit
from openai_server.api.in_tier import take_tier
from openai_server.api.lone_request import RETRY_SECONDS, Enter, lone_request, not_now, scope
from openai_server.api.prompt_estimate import prompt_tokens
from openai_server.api.responses.background.log_sink import LogSink
from openai_server.api.responses.background.queued_request import QueuedRequest, decoded
from openai_server.api.responses.background.recorder import Recorder
from openai_server.api.responses.background.replay import settings_of
from openai_server.api.responses.opening import completed
from openai_server.api.responses.request import parse_with_source
from openai_server.api.responses.settings import ResponsesRequest
from openai_server.api.responses.storage.keeping import ending
from openai_server.api.responses.stored_view import ENCRYPTED
from openai_server.api.services import Services
from openai_server.core.errors import APIError, InternalError
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import ResponseNotFound, StoreAway, Superseded
from openai_server.core.turn import Sampling, Turn
from openai_server.jobs.runner import NotNow
from openai_server.store.records import EventBatch, Run
from openai_server.store.store import Store

log = logging.getLogger(__name__)

METHOD = "BACKGROUND"
"""Stands in log lines where a request has its method."""
ENDPOINT = "/v1/responses (background)"
"""Name of the runs in metrics and logs."""


class BackgroundWork:
    """A `jobs.runner.Work`. `enter` returns the access of a caller whose request has been counted. `stored` is called
    with the id of a response when more of it is in the store, and when its run has ended."""

    def __init__(self, services: Services, store: Store, enter: Enter, stored: Callable[[str], None]) -> None:
        self._services = services
        self._store = store
        self._enter = enter
        self._stored = stored

    async def __call__(self, run: Run) -> None:
        queued = decoded(run.request)
        sink = LogSink(lambda batches: self._store.add_events(run, batches), lambda: self._stored(run.id))
        caller, observer = Caller(run.owner, ""), self._services.observer
        try:
            with lone_request(
                observer, self._enter, caller, _scope(run, queued), endpoint=ENDPOINT, operation="chat"
            ) as context:
                try:
                    await self._generated(_Generating(run, queued, context, sink))
                finally:
                    sink.abort()
        finally:
            self._stored(run.id)  # how it ended, or that it no longer runs here

    async def _generated(self, run: "_Generating") -> None:
        """Raises NotNow and Superseded."""
        try:
            last = await self._answered(run)
            run.context.status = 200
        except StoreAway as error:  # the sink has none, so nothing has been generated
            raise NotNow(RETRY_SECONDS) from error
        except Superseded:
            raise
        except Exception as error:
            failure = _as_api_error(error)
            if failure.status == 429 and not run.sink.has_records:
                raise not_now(failure) from error
            run.context.status = failure.status
            last = await self._failed(run, failure)
        await self._finish(run, last)

    async def _answered(self, run: "_Generating") -> bytes:
        """Stores the log except its last records, which it returns. Raises APIError."""
        services, context, access = self._services, run.context, run.context.access
        request, body_size = await services.bodies.read(parse_with_source, context)
        request.model = run.queued.model
        request.use = replace(request.use, is_queued=True)
        request = await completed(services, request, context)
        request = run.request = replace(request, settings=replace(request.settings, store=True))
        take_tier(request, context)
        turn = request.turn
        if access.is_limited:
            access.reserve(prompt_tokens(turn.prompts, body_size + turn.file_bytes), output_limit(turn))
        async with access:
            return await services.generator.stream(
                turn,
                run.run.id,
                context,
                lambda model: self._recorder(run, request, model),
                run.sink,
                access.delivered,
            )

    def _recorder(self, run: "_Generating", request: ResponsesRequest, model: ResolvedModel | None) -> Recorder:
        """`model` None: the response failed before one was found."""
        identity, services = run.identity, self._services
        kind = "compaction" if request.compacts else "reasoning"
        seals = request.compacts or ENCRYPTED in request.include
        seal = services.sealer.sealing(kind, identity.model) if seals else None  # type: ignore[arg-type]
        run.recorder = Recorder(identity, request, None if model is None else model.format, seal, services.clock)
        return run.recorder

    async def _failed(self, run: "_Generating", error: APIError) -> bytes:
        """The last records of a response that failed. Raises NotNow."""
        if run.recorder is None:
            if run.request is None:
                run.request = _bare_request(await self._body(run.run))
            self._recorder(run, run.request, None)
        assert run.recorder is not None
        return run.recorder.failure(error)

    async def _body(self, run: Run) -> bytes:
        """The response object as it was queued. Raises NotNow and Superseded."""
        try:
            return (await self._store.response(run.owner, run.id)).body
        except StoreAway as error:
            raise NotNow(RETRY_SECONDS) from error
        except ResponseNotFound:
            raise Superseded from None

    async def _finish(self, run: "_Generating", last: bytes) -> None:
        assert run.recorder is not None
        assert run.recorder.response is not None
        waiting = await run.sink.close()
        batches: Sequence[EventBatch] = [*waiting, *run.sink.batches_of(last)]
        how = ending(run.recorder.response)
        end = run.request.history.conversation_end if run.request is not None else None
        while True:
            try:
                await self._store.finish_run(run.run, how, conversation_end=end, batches=batches)
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return


class _Generating:
    """A run, as far as it has come."""

    def __init__(self, run: Run, queued: QueuedRequest, context: RequestContext, sink: LogSink) -> None:
        self.run = run
        self.queued = queued
        self.context = context
        self.sink = sink
        self.identity = AnswerIdentity(run.id, int(run.created_at), queued.model)
        self.request: ResponsesRequest | None = None
        """None until it is complete."""
        self.recorder: Recorder | None = None
        """None until the model is found."""


def _scope(run: Run, queued: QueuedRequest) -> dict[str, Any]:
    headers = [(b"x-request-id", queued.request_id.encode())]
    if queued.traceparent:
        headers.append((b"traceparent", queued.traceparent.encode()))
    return scope(METHOD, f"/v1/responses/{run.id}", headers, bytes(queued.body))


def _bare_request(body: bytes) -> ResponsesRequest:
    """A request that generates nothing, with the settings of this response object."""
    turn = Turn(sampling=Sampling(), names={})
    return ResponsesRequest(turn=turn, stream=True, settings=settings_of(body))


def _as_api_error(error: Exception) -> APIError:
    if isinstance(error, APIError):
        return error
    log.error("a background response failed", exc_info=error)
    return InternalError()
