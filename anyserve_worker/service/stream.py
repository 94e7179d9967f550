"""One ModelStreamInfer call: its requests run concurrently and share one outbox.

A request with a number is answered in step batches (`step_batch.py`), or with one whole response. It has no task while
it runs: the engine's deltas go straight into the outbox, or into a list. Every other request has a task, which turns
deltas into responses.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

import grpc
from google.protobuf.message import DecodeError

from anyserve_common.text import shortened
from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.errors import AnswerTooLarge, InvalidRequest, WorkerError
from anyserve_worker.core.origin import Metadata
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.service import step_batch
from anyserve_worker.service.outbox import Outbox
from anyserve_worker.service.served_model import ServedModel
from anyserve_worker.service.tasks import task_of
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse

log = logging.getLogger(__name__)

MAX_WAITING = 512
"""Requests with an unread response. From this number on, no further request is read from the stream."""

MAX_WHOLE_BYTES = 60 << 20
"""Bytes of a whole response. One that is too large for the client would end the stream with all its requests."""
MAX_REPEATED = 1000
"""Characters of the request's id and the model's name that an error response repeats. Longer ones are refused."""


class Stream:
    """`admit` returns the model of a request, or raises WorkerError. `draining` is set when the worker drains.

    `metadata`: the call's. Requests without a number take their origin from it, since each has a call of its own.
    """

    def __init__(
        self, admit: Callable[[ModelInferRequest], ServedModel], draining: asyncio.Event, metadata: Metadata = ()
    ) -> None:
        self._admit = admit
        self._draining = draining
        self._metadata = metadata
        self._outbox = Outbox(self._on_sent)
        self._by_number: dict[int, RunningGeneration | asyncio.Task[None]] = {}
        """Unfinished requests by number; a task until the engine has the request."""
        self._n_unanswered = 0
        self._all_answered = asyncio.Event()
        self._all_answered.set()
        self._n_waiting = 0
        """Requests whose response is unread. Those that don't run yet count as well, since they may be refused."""
        self._may_read = asyncio.Event()
        self._may_read.set()

    async def responses(
        self, requests: AsyncIterator[ModelInferRequest]
    ) -> AsyncGenerator[ModelStreamInferResponse, None]:
        """Yields the responses to all requests. Raises a WorkerError that ends the stream for all of them."""
        reader = asyncio.create_task(self._read(requests))
        try:
            async for response in self._outbox:
                yield response
            if error := await reader:
                raise error
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[ModelInferRequest]) -> WorkerError | None:
        """Reads requests until the client has sent its last one and all are answered. Then closes the outbox."""
        error: WorkerError | None = None
        drained = asyncio.create_task(self._drained())
        try:
            async with asyncio.TaskGroup() as tasks:
                while await self._may_read.wait() and (request := await _next(requests, drained)) is not None:
                    self._accept(request, tasks)
                await self._all_answered.wait()
        except* DecodeError:
            error = InvalidRequest("a message of the stream cannot be parsed")
        except* grpc.aio.BaseError as errors:  # The server has stopped, or the client is gone.
            log.debug("a stream was cut off: %s", errors.exceptions)
        except* Exception:
            log.exception("a stream failed")
            error = WorkerError("internal error")
        finally:
            drained.cancel()
            for running in self._by_number.values():
                running.cancel()
        self._outbox.close()
        return error

    async def _drained(self) -> None:
        """Waits until the worker drains and all requests are answered. Until then, cancellations are read."""
        await self._draining.wait()
        await self._all_answered.wait()

    def _accept(self, message: ModelInferRequest, tasks: asyncio.TaskGroup) -> None:
        """Raises DecodeError for a bundle with a request that cannot be parsed."""
        if contract.PARAM_BUNDLE not in message.parameters:
            self._accept_request(message, tasks)
            return
        parts = message.raw_input_contents
        if len(parts) > contract.MAX_BUNDLE:
            self._count_request()
            problem = f"the bundle has {len(parts)} requests, the limit is {contract.MAX_BUNDLE}"
            self._end(message, InvalidRequest(problem), None)
            return
        for part in parts:
            self._accept_request(ModelInferRequest.FromString(part), tasks)

    def _accept_request(self, request: ModelInferRequest, tasks: asyncio.TaskGroup) -> None:
        number = None
        try:
            cancelled_number = step_batch.number(request, contract.PARAM_CANCEL)
            if cancelled_number is not None:
                self._cancel(cancelled_number)
                return
            number = step_batch.number(request, contract.PARAM_REQUEST)
            if contract.PARAM_BUNDLE in request.parameters:
                raise InvalidRequest("a bundle cannot contain another one")
            if number in self._by_number:
                raise InvalidRequest(
                    f"parameter '{contract.PARAM_REQUEST}': {number} is the number of a running request"
                )
        except InvalidRequest as error:
            self._count_request()
            self._end(request, error, None)
            return
        self._count_request()
        if number is None:
            tasks.create_task(self._answer(request))
        else:
            self._by_number[number] = tasks.create_task(self._start(request, number))

    # ---- Counts

    def _count_request(self) -> None:
        self._n_unanswered += 1
        self._all_answered.clear()
        self._add_waiting(1)

    def _count_answer(self) -> None:
        self._n_unanswered -= 1
        if not self._n_unanswered:
            self._all_answered.set()

    def _add_waiting(self, n: int) -> None:
        self._n_waiting += n
        if self._n_waiting < MAX_WAITING:
            self._may_read.set()
        else:
            self._may_read.clear()

    def _on_sent(self, ends: int) -> None:
        self._add_waiting(-ends)

    # ---- Requests with a number

    async def _start(self, request: ModelInferRequest, number: int) -> None:
        try:
            generation = await self._admit(request).submit(request)
        except Exception as error:
            del self._by_number[number]
            self._end(request, error, number)
            return
        self._by_number[number] = generation
        self._add_waiting(-1)  # from here on, the engine limits their number
        unsent: list[Delta] | None = [] if request.parameters[contract.PARAM_WHOLE].bool_param else None
        generation.forward(lambda item: self._arrived(request, number, generation, unsent, item))

    def _arrived(
        self,
        request: ModelInferRequest,
        number: int,
        generation: RunningGeneration,
        unsent: list[Delta] | None,
        item: Delta | WorkerError,
    ) -> None:
        """`unsent`: the deltas of a request whose rows are sent together, at its end; None for any other."""
        if generation.done:
            del self._by_number[number]
            self._add_waiting(1)
        if isinstance(item, WorkerError):
            self._end(request, item, number)
            return
        if unsent is None:
            self._outbox.add_row((number, item), ends=generation.done)
        else:
            unsent.append(item)
            if generation.done:
                self._add_rows(request, number, merge(unsent))
        if generation.done:
            self._count_answer()

    def _add_rows(self, request: ModelInferRequest, number: int, choices: list[Delta]) -> None:
        """Adds the only rows of a request, one for each choice."""
        size = sum(map(step_batch.n_bytes, choices))
        if size > MAX_WHOLE_BYTES:
            error = AnswerTooLarge(f"The response has {size} bytes of text; the limit is {MAX_WHOLE_BYTES} bytes.")
            self._outbox.add(_error_response(request, error, number))
            return
        for choice in choices:
            self._outbox.add_row((number, choice), ends=choice is choices[-1])

    def _cancel(self, number: int) -> None:
        running = self._by_number.pop(number, None)
        if running is None:
            return
        running.cancel()
        if isinstance(running, asyncio.Task):
            self._add_waiting(-1)
        self._count_answer()

    def _end(self, request: ModelInferRequest, error: Exception, number: int | None) -> None:
        self._outbox.add(_error_response(request, error, number))
        self._count_answer()

    # ---- Requests without a number

    async def _answer(self, request: ModelInferRequest) -> None:
        try:
            model = self._admit(request)
            task = model.task(task_of(request))
            async with aclosing(model.stream(request, task, self._metadata)) as responses:
                async for response, last in responses:
                    await self._outbox.put(ModelStreamInferResponse(infer_response=response), ends=last)
        except Exception as error:
            await self._outbox.put(_error_response(request, error), ends=True)
        self._count_answer()


async def _next(requests: AsyncIterator[ModelInferRequest], drained: "asyncio.Task[None]") -> ModelInferRequest | None:
    """Returns the next request of a stream; None at its end, or when the worker has drained."""
    request = asyncio.ensure_future(anext(requests, None))
    # If the server stops, the future fails. The exception is retrieved even if nothing awaits the future any more.
    request.add_done_callback(lambda future: future.cancelled() or future.exception())
    await asyncio.wait((request, drained), return_when=asyncio.FIRST_COMPLETED)
    if request.done():
        return request.result()
    request.cancel()
    return None


def _error_response(
    request: ModelInferRequest, error: Exception, number: int | None = None
) -> ModelStreamInferResponse:
    if not isinstance(error, WorkerError):
        log.error("request %r failed", shortened(request.id), exc_info=error)
        error = WorkerError("internal error")
    # Many of these may wait to be read, so they are small, however large the request was.
    response = ModelInferResponse(
        model_name=request.model_name[:MAX_REPEATED],
        model_version=request.model_version[:MAX_REPEATED],
        id=request.id[:MAX_REPEATED],
    )
    for key, value in (error.details | {contract.ERROR_STATUS: error.status.name}).items():
        response.parameters[key].string_param = value
    if number is None:
        response.parameters[contract.PARAM_FINAL].bool_param = True
    else:
        response.parameters[contract.PARAM_REQUEST].int64_param = number
    return ModelStreamInferResponse(error_message=str(error), infer_response=response)
