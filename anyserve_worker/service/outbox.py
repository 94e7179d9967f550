"""What waits for the client of a stream to read it."""

import asyncio
from collections.abc import AsyncIterator, Callable

from anyserve_worker.service.step_batch import Row, step_batch
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse

MAX_RESPONSES = 64
"""Responses of `put` that may wait here; behind them, tokens gather in the requests' mailboxes."""


class Outbox:
    """Rows and responses, in the order of their arrival. Iterate, once the transport has accepted the last message.

    All rows that are there by then go into one step batch, so a slow client gets larger messages, not more of them.
    """

    def __init__(self, on_sent: Callable[[int], None]) -> None:
        """`on_sent` is called with the number of requests whose last message was just sent, 0 included."""
        self._on_sent = on_sent
        self._rows: list[Row] = []
        self._row_ends = 0
        self._responses: list[tuple[ModelStreamInferResponse, bool, bool]] = []
        """With: whether it ends its request, whether it has a place."""
        self._places = asyncio.Semaphore(MAX_RESPONSES)
        self._changed = asyncio.Event()
        self._closed = False

    def add_row(self, row: Row, *, ends: bool) -> None:
        """`ends`: with it, its request is over."""
        self._rows.append(row)
        self._row_ends += ends
        self._changed.set()

    def add(self, response: ModelStreamInferResponse) -> None:
        """The last word to a request, behind its rows."""
        self._responses.append((response, True, False))
        self._changed.set()

    async def put(self, response: ModelStreamInferResponse, *, ends: bool) -> None:
        """Waits while too many others wait."""
        await self._places.acquire()
        self._responses.append((response, ends, True))
        self._changed.set()

    def close(self) -> None:
        """Nothing more will come than what is there."""
        self._closed = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[ModelStreamInferResponse]:
        while True:
            await self._changed.wait()
            self._changed.clear()
            # A request's end is among the responses and its rows came before: in this order nothing is overtaken.
            rows, self._rows = self._rows, []
            row_ends, self._row_ends = self._row_ends, 0
            responses, self._responses = self._responses, []
            if rows:
                yield ModelStreamInferResponse(infer_response=step_batch(rows))
                self._on_sent(row_ends)
            for response, ends, has_place in responses:
                yield response
                self._on_sent(ends)
                if has_place:
                    self._places.release()
            if self._closed and not self._rows and not self._responses:
                return
