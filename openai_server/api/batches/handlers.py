"""The handlers of `/v1/batches`."""

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson
from starlette.responses import Response

from openai_server.api.batches.answer import Batch, BatchList, batch, batch_list
from openai_server.api.batches.request import PREFIX, page_of, parse_batch, window_seconds
from openai_server.api.batches.service import Batches
from openai_server.api.endpoint import Handler
from openai_server.api.query import query_of
from openai_server.api.services import Services
from openai_server.core.file_errors import NoFiles
from openai_server.core.request_context import RequestContext
from openai_server.http.json_response import JSONResponse
from openai_server.store.batch_records import NewBatch
from openai_server.store.ids import new_id


class _Call(NamedTuple):
    """A request for batches."""

    services: Services
    batches: Batches
    context: RequestContext

    @property
    def owner(self) -> str:
        return self.context.access.owner

    @property
    def id(self) -> str:
        """The batch's id."""
        return self.context.parameters["batch_id"]


def _handler(answer: Callable[[_Call], Awaitable[object]]) -> Callable[[Services], Handler]:
    def create(services: Services) -> Handler:
        async def handle(context: RequestContext) -> Response:
            if services.batches is None:
                raise NoFiles
            context.access.count_request()
            return JSONResponse(await answer(_Call(services, services.batches, context)))

        return handle

    return create


async def _create(call: _Call) -> Batch:
    request, _ = await call.services.bodies.read(parse_batch, call.context)
    now = call.services.clock()
    expires = request.output_expires_after
    new = NewBatch(
        id=new_id(PREFIX, now),
        owner=call.owner,
        created_at=now,
        endpoint=request.endpoint,
        input_file_id=request.input_file_id,
        completion_window=request.completion_window,
        deadline=now + window_seconds(request.completion_window),
        metadata=orjson.dumps(request.metadata),
        output_seconds=None if expires is None else float(expires.seconds),
    )
    stored = await call.batches.store.create(new)
    call.batches.steward.wake()
    return batch(stored)


async def _get(call: _Call) -> Batch:
    return batch(await call.batches.store.get(call.owner, call.id))


async def _list(call: _Call) -> BatchList:
    page = page_of(query_of(call.context))
    return batch_list(await call.batches.store.list(call.owner, page))


async def _cancel(call: _Call) -> Batch:
    before = await call.batches.store.get(call.owner, call.id)
    stored = await call.batches.store.cancel(call.owner, call.id)
    call.batches.stop(stored, has_ended=before.status == "validating" and stored.status == "cancelled")
    return batch(stored)


create_batch = _handler(_create)
get_batch = _handler(_get)
list_batches = _handler(_list)
cancel_batch = _handler(_cancel)
