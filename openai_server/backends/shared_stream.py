"""Sends many requests on one stream to the backend: the client side of step batches (protos/README.md).

Each request has a number. Its rows go into the mailbox of its HTTP request without a task or a wait in between, so a
slow client doesn't delay the stream. This module doesn't use gRPC: `calls.py` opens the stream.
"""

import asyncio
import itertools
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, suppress
from contextvars import Context
from dataclasses import dataclass

from openai_server.backends.delivery import Delivery
from openai_server.backends.dialects.anyserve import decode
from openai_server.backends.dialects.anyserve.decode import ChoiceEnd
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.core import request_context
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import BackendError
from openai_server.core.usage import PromptUsage, Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse

log = logging.getLogger(__name__)

Open = Callable[[AsyncIterator[ModelInferRequest]], AsyncGenerator[ModelStreamInferResponse, None]]
"""Sends the requests and yields the responses, each as soon as it is available. Raises BackendError."""

MAX_BUNDLE_BYTES = 1 << 20
"""Maximum size of the requests in one message, unless the first request alone is larger."""
LOST = "The model backend ended the stream."
LATE = "The time limit has passed."


class StreamLost(BackendError):
    """The stream ended before the answer was complete."""

    def __init__(self, why: str, *, is_loss: bool) -> None:
        super().__init__("UNAVAILABLE", why)
        self.is_loss = is_loss


@dataclass(slots=True, eq=False)
class _Streamed:
    """A request that is answered in step batches."""

    k: int
    """Number of the prompt in its HTTP request."""
    mailbox: Mailbox
    n: int
    """Number of choices."""
    unfinished: set[int]
    """Choices that have not ended."""
    timer: asyncio.TimerHandle | None
    """Timer of the deadline; None without one."""
    completion: int = 0
    """Tokens of the ended choices."""
    marked: int | None = None
    """Marked tokens of the ended choices; None if not reported."""

    def fail(self, error: BackendError) -> None:
        self.mailbox.fail(self.k, error)


@dataclass(slots=True, eq=False)
class _Whole:
    """A request with a whole answer: the rows of each choice arrive together."""

    answer: "asyncio.Future[Answer]"
    timer: asyncio.TimerHandle | None
    """Timer of the deadline; None without one."""
    texts: list[bytes]
    """Text of each choice."""
    ends: dict[int, ChoiceEnd]
    """Ends of the choices that have arrived, by choice."""

    @property
    def n(self) -> int:
        """Number of choices."""
        return len(self.texts)

    def end(self) -> None:
        """Completes the answer. Must be called when the last choice has ended."""
        if self.answer.done():
            return
        choices = [Choice(i, text.decode(errors="replace"), self.ends[i].reason) for i, text in enumerate(self.texts)]
        ends = self.ends.values()
        marked = [end.marked for end in ends if end.marked >= 0]
        usage = Usage(
            self.ends[0].prompt,
            sum(end.completion for end in ends),
            self.ends[0].cached,
            sum(marked) if marked else None,
        )
        self.answer.set_result(Answer(choices, usage))

    def fail(self, error: BackendError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class SharedStream:
    """One stream, opened at once and read until it ends. If it is lost, its requests fail.

    `timeout`, in seconds, limits each request whose tier is timed; None is no limit. It is sent to the backend, and
    enforced here as well, since a backend that hangs doesn't answer. `takes_bundles`: the backend accepts several
    requests in a message.
    """

    def __init__(self, open: Open, *, timeout: float | None, takes_bundles: bool = False) -> None:
        self.retired = False
        """Whether new requests need another stream: this one has ended, is replaced, or its backend drains."""
        self._retiring = False
        self._has_ended = False
        self._open = open
        self._timeout = timeout
        self._takes_bundles = takes_bundles
        self._loop = asyncio.get_running_loop()
        self._last_number = -1
        self._requests: dict[int, _Streamed | _Whole] = {}
        """Requests in progress, by number."""
        self._uncounted: set[int] = set()
        """Numbers of the streamed requests whose prompt counts have not arrived."""
        self._unsent: dict[int, ModelInferRequest] = {}
        self._cancelled: list[int] = []
        """Numbers of cancelled requests, not yet sent to the backend."""
        self._to_send = asyncio.Event()
        self._arrived: list[ModelStreamInferResponse] = []
        """Responses that are not processed yet."""
        self._broken: Exception | None = None
        """Exception that `_take` raised."""
        self._deliveries = Delivery(self._loop.call_soon)
        # With an empty context: the stream doesn't belong to its first request.
        self._reader = asyncio.create_task(self._read(), context=Context())

    @property
    def n_requests(self) -> int:
        """Number of requests in progress."""
        return len(self._requests)

    def retire(self) -> None:
        """Ends the stream after the last of its requests."""
        self.retired = self._retiring = True
        if not self._requests:
            self._reader.cancel()

    async def close(self) -> None:
        self._reader.cancel()
        with suppress(asyncio.CancelledError):
            await self._reader

    def start(self, request: ModelInferRequest, n: int, k: int, mailbox: Mailbox) -> Cancel:
        """Sends the request for `n` choices. Its rows go into the mailbox, as those of prompt k."""
        number = self._number()
        self._requests[number] = _Streamed(k, mailbox, n, set(range(n)), self._prepare(request, number))
        self._uncounted.add(number)
        self._send(request, number)
        return lambda: self._cancel(number)

    async def answer(self, request: ModelInferRequest, n: int) -> Answer:
        """Sends the request for `n` choices, and returns its whole answer.

        Raises BackendError; StreamLost if the stream ends before the answer is complete.
        """
        number, answer = self._number(), self._loop.create_future()
        request.parameters[contract.PARAM_WHOLE].bool_param = True
        self._requests[number] = _Whole(answer, self._prepare(request, number), [b""] * n, {})
        self._send(request, number)
        try:
            whole: Answer = await answer
            return whole
        finally:
            self._cancel(number)  # without effect if the answer is complete

    def _prepare(self, request: ModelInferRequest, number: int) -> asyncio.TimerHandle | None:
        """Adds the parameters that a call of its own would have as metadata. Returns the timer of its deadline."""
        request.parameters[contract.PARAM_REQUEST].int64_param = number
        context = request_context.current()
        for name, value in context.headers:
            request.parameters[contract.METADATA_PARAMETERS[name]].string_param = value
        if self._timeout is None or not context.tier.is_timed:
            return None
        request.parameters[contract.PARAM_TIMEOUT].int64_param = round(self._timeout * 1e6)
        return self._loop.call_later(self._timeout, self._expire, number)

    def _send(self, request: ModelInferRequest, number: int) -> None:
        self._unsent[number] = request
        self._to_send.set()

    def _number(self) -> int:
        """The next free number. Numbers are reused after two billion."""
        while True:
            self._last_number = (self._last_number + 1) & contract.INT32_MAX
            if self._last_number not in self._requests:
                return self._last_number

    # ---- Ends of a request

    def _over(self, number: int) -> _Streamed | _Whole | None:
        request = self._requests.pop(number, None)
        self._uncounted.discard(number)
        if request is not None and request.timer is not None:
            request.timer.cancel()
        if self._retiring and not self._requests:
            self._reader.cancel()
        return request

    def _cancel(self, number: int) -> None:
        if self._over(number) is None:
            return
        if self._unsent.pop(number, None) is None:
            self._cancelled.append(number)
            self._to_send.set()

    def _fail(self, number: int, error: BackendError) -> None:
        if request := self._over(number):
            request.fail(error)

    def _expire(self, number: int) -> None:
        request = self._requests[number]
        self._cancel(number)
        request.fail(BackendError("DEADLINE_EXCEEDED", LATE))

    # ---- The stream

    async def _outgoing(self) -> AsyncIterator[ModelInferRequest]:
        while not self._has_ended:
            await self._to_send.wait()
            self._to_send.clear()
            # Cancellations first: they free slots for the requests.
            while self._cancelled or self._unsent:
                if self._cancelled:
                    yield _cancellation(self._cancelled.pop())
                elif self._takes_bundles and len(self._unsent) > 1:
                    yield self._bundle()
                else:
                    yield self._unsent.pop(next(iter(self._unsent)))

    def _bundle(self) -> ModelInferRequest:
        """The requests that have waited longest, as one message."""
        parts: list[bytes] = []
        size = 0
        for number in list(itertools.islice(self._unsent, contract.MAX_BUNDLE)):
            part = self._unsent[number].SerializeToString()
            size += len(part)
            if parts and size > MAX_BUNDLE_BYTES:
                break
            del self._unsent[number]
            parts.append(part)
        message = ModelInferRequest(raw_input_contents=parts)
        message.parameters[contract.PARAM_BUNDLE].bool_param = True
        return message

    async def _read(self) -> None:
        why, is_loss = LOST, False
        try:
            async with aclosing(self._open(self._outgoing())) as responses:
                async for response in responses:
                    self._arrived.append(response)
                    if len(self._arrived) == 1:
                        self._deliveries.note_arrival()
                        if self._deliveries.is_behind:  # gRPC reads the next message meanwhile
                            self._loop.call_soon(self._take_arrived)
                        else:
                            self._take_arrived()
        except BackendError as error:
            log.debug("lost a stream: %s: %s", error.status, error.message)
            why, is_loss = error.message, error.is_loss
        except asyncio.CancelledError:
            if self._broken is None:
                raise
            log.error("a response on the shared stream could not be processed", exc_info=self._broken)
        finally:
            self._take_arrived()
            self._deliveries.deliver()
            self.retired = self._has_ended = True
            self._to_send.set()  # ends `_outgoing`, which gRPC waits for even after the call
            for number in list(self._requests):
                self._fail(number, StreamLost(why, is_loss=is_loss))

    def _take_arrived(self) -> None:
        arrived, self._arrived = self._arrived, []
        if not arrived:
            return
        try:
            for response in arrived:
                self._take(response)
        except Exception as error:
            self._broken = error
            self._reader.cancel()
        self._deliveries.end_message()

    def _take(self, response: ModelStreamInferResponse) -> None:
        """Processes a response. Raises BackendError if it is malformed."""
        answer = response.infer_response
        if response.error_message or not answer.outputs:
            self._take_error(response)
            return
        requests, receivers = self._requests, self._deliveries.receivers
        batch = decode.step_batch(answer)
        if batch.prompts is not None and self._uncounted:
            self._count_prompts(batch.prompts)
        for number, token, index, end in batch.rows:
            request = requests.get(number)
            if request is None:  # cancelled, and the backend sent this row before it was notified
                continue
            if not 0 <= index < request.n:
                self._cancel(number)
                request.fail(decode.no_such_choice(index, request.n))
            elif isinstance(request, _Whole):
                self._take_whole(number, request, token, index, end)
            elif end is None:
                request.mailbox.put(request.k * request.n + index, token, None)
                receivers[request.mailbox] = None
            else:
                self._end_choice(number, request, token, index, end)
                receivers[request.mailbox] = None

    def _count_prompts(self, prompts: Iterable[tuple[int, int, int]]) -> None:
        for number, prompt, cached in prompts:
            if number in self._uncounted:
                self._uncounted.discard(number)
                request = self._requests[number]
                assert isinstance(request, _Streamed)
                request.mailbox.begin(request.k, PromptUsage(prompt, cached))

    def _end_choice(self, number: int, request: _Streamed, token: bytes, index: int, end: ChoiceEnd) -> None:
        request.mailbox.put(request.k * request.n + index, token, end.reason)
        request.unfinished.discard(index)
        request.completion += end.completion
        if end.marked >= 0:
            request.marked = (request.marked or 0) + end.marked
        if not request.unfinished:
            self._over(number)
            request.mailbox.end(request.k, Usage(end.prompt, request.completion, end.cached, request.marked))

    def _take_whole(self, number: int, request: _Whole, token: bytes, index: int, end: ChoiceEnd | None) -> None:
        request.texts[index] += token
        if end is not None:
            request.ends[index] = end
        if len(request.ends) == request.n:
            self._over(number)
            request.end()

    def _take_error(self, response: ModelStreamInferResponse) -> None:
        error = decode.stream_error(response)
        self.retired |= error.reason == contract.REASON_DRAINING
        parameters = response.infer_response.parameters
        if contract.PARAM_REQUEST in parameters:
            self._fail(parameters[contract.PARAM_REQUEST].int64_param, error)
        else:
            log.error("the backend refused a message: %s", error.message)


def unnumbered(request: ModelInferRequest) -> ModelInferRequest:
    """The request without the parameters that the shared stream added."""
    parameters = (contract.PARAM_REQUEST, contract.PARAM_WHOLE, contract.PARAM_TIMEOUT)
    for parameter in (*parameters, *contract.METADATA_PARAMETERS.values()):
        request.parameters.pop(parameter, None)
    return request


def _cancellation(number: int) -> ModelInferRequest:
    message = ModelInferRequest()
    message.parameters[contract.PARAM_CANCEL].int64_param = number
    return message
