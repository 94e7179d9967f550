"""The outbox of a stream: responses that its client has not read yet."""

import asyncio
from collections.abc import AsyncIterator, Callable

from anyserve_worker.service.step_batch import Row, split, step_batch
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse

MAX_BATCH_BYTES = 16 << 20
"""Text of the rows in one step batch, unless a single row has more. Clients limit the size of a message."""
MAX_RESPONSES = 64
"""Responses of `put` that may wait here. Further `put` calls block, and deltas collect in the requests' mailboxes."""


class Outbox:
    """Rows and responses in the order of their arrival. Iteration yields the messages to send.

    A step batch has all rows that arrived while gRPC accepted the previous message, so a slow client gets larger
    messages, not more of them.
    """

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        """`on_sent` is called after each message, with the number of requests that it ended, which may be 0."""
        self._on_sent = on_sent
        self._rows: list[Row] = []
        self._row_ends = 0
        self._responses: list[tuple[ModelStreamInferResponse, bool, bool]] = []
        """(response, whether it ends its request, whether it holds a slot of `_slots`)."""
        self._slots = asyncio.Semaphore(MAX_RESPONSES)
        self._changed = asyncio.Event()
        self._closed = False

    def add_row(self, row: Row, *, ends: bool) -> None:
        """`ends`: whether this is the last row of its request."""
        self._rows.append(row)
        self._row_ends += ends
        self._changed.set()

    def add(self, response: ModelStreamInferResponse) -> None:
        """Adds the last response to a request, after its rows."""
        self._responses.append((response, True, False))
        self._changed.set()

    async def put(self, response: ModelStreamInferResponse, *, ends: bool) -> None:
        """Adds a response, once fewer than MAX_RESPONSES are waiting. `ends`: whether it ends its request."""
        await self._slots.acquire()
        self._responses.append((response, ends, True))
        self._changed.set()

    def close(self) -> None:
        """Ends the iteration after the messages that were added so far."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[ModelStreamInferResponse]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # Rows first: a response that ends a request must not overtake its rows.
            rows, self._rows = self._rows, []
            row_ends, self._row_ends = self._row_ends, 0
            responses, self._responses = self._responses, []
            if rows:
                for part in split(rows, MAX_BATCH_BYTES):
                    yield ModelStreamInferResponse(infer_response=step_batch(part))
                self._on_sent(row_ends)
            for response, ends, has_slot in responses:
                yield response
                self._on_sent(ends)
                if has_slot:
                    self._slots.release()
            if self._closed and not self._rows and not self._responses:
                return
