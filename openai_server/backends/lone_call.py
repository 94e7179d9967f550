"""A call of its own for one request: a stream, or a unary call whose answer arrives as a whole.

The bundled worker's step batches don't come this way: `shared_stream.py` has those. This module doesn't use gRPC:
`calls.py` makes the calls.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Any

from openai_server.backends.dialects.base import AnswerReader, Call, Rpc
from openai_server.backends.mailbox import Mailbox
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.usage import Usage
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse

Open = Callable[[AsyncIterator[ModelInferRequest], bool], AsyncGenerator[Any, None]]
"""Opens a stream for the requests. True: its responses have the type ModelInferResponse. Raises BackendError."""
Infer = Callable[[ModelInferRequest], Awaitable[ModelInferResponse]]
"""Makes a unary call. Raises BackendError."""


class NotImplementedCall(BackendError):
    """The backend doesn't implement the call for this model; it has sent nothing."""


async def answer_into(mailbox: Mailbox, k: int, call: Call, open: Open, infer: Infer) -> Usage | None:
    """Makes the call, and puts its rows into the mailbox, as those of prompt k. Returns the token counts; None if the
    backend doesn't report them. Raises BackendError; NotImplementedCall if another kind of call may succeed."""
    reader, has_response = call.new_reader(), False
    try:
        if call.rpc is Rpc.UNARY:
            response = await infer(call.request)
            has_response = True
            _deliver(reader, reader.read(response), call.n, k, mailbox)
        else:
            is_bare = call.rpc is Rpc.BARE_STREAM
            async with aclosing(open(_only(call.request), is_bare)) as responses:
                async for response in responses:
                    has_response = True
                    if not is_bare and response.error_message:
                        raise call.error_of(response)
                    message = response if is_bare else response.infer_response
                    _deliver(reader, reader.read(message), call.n, k, mailbox)
                    if reader.is_complete:
                        break
    except BackendError as error:
        if error.status == "UNIMPLEMENTED" and not has_response:
            raise NotImplementedCall(error.status, error.message, error.details) from None
        raise
    _deliver(reader, reader.end(), call.n, k, mailbox)
    return reader.usage


def _deliver(reader: AnswerReader, rows: Sequence[Row], n: int, k: int, mailbox: Mailbox) -> None:
    """Passes on what the last response has added."""
    if k not in mailbox.prompt_usages and (counts := reader.prompt_usage):
        mailbox.begin(k, counts)
    mailbox.timings = reader.timings
    if progress := reader.take_progress():
        mailbox.report(progress)
    for index, token, reason, logprobs in rows:
        mailbox.put(k * n + index, token, reason, logprobs)
    mailbox.deliver()


async def _only(request: ModelInferRequest) -> AsyncIterator[ModelInferRequest]:
    yield request
