"""Where the answers to one HTTP request gather until it takes them: it may have several prompts, each with choices."""

import asyncio
from collections.abc import Callable

from openai_server.core.errors import BackendError
from openai_server.core.logprobs import Logprobs, TokenLogprob
from openai_server.core.rows import Row
from openai_server.core.usage import Usage

PROMPTS_IN_FLIGHT = 16
"""Calls of one request at a time. A list of a thousand prompts must not fill the backend's queue by itself."""
MAX_WAITING_ROWS = 256
"""Rows that may wait; then those of one choice become one, so that a slow client costs no more than its text."""

Cancel = Callable[[], object]
Start = Callable[[int, "Mailbox"], Cancel]
"""Starts the call for prompt k, which tells the mailbox what becomes of it. What it returns cancels the call."""
Retry = Callable[[int, "Mailbox", BackendError], Cancel | None]
"""Starts a call that failed a second time, elsewhere; None if that makes no sense."""
Sink = Callable[[list[Row]], bool]
"""Writes the rows to the client at once, without waiting. False: it can't now, and has done nothing."""


class Mailbox:
    """Filled on the event loop, without waiting; taken by one task. The first failure ends all calls.

    While the task waits in `take`, `sink` gets the rows instead, so that a token costs no wake-up of a task. The task
    still gets those that the sink refuses, the end and every error.

    `ping_interval`: seconds of silence after which `take` returns an empty list.
    """

    __slots__ = (  # one for each stream, and all of them are touched in every step
        *("_error", "_loop", "_n_prompts", "_n_started", "_ping_interval", "_retry", "_room", "_rows", "_running"),
        *("_silent", "_spoken", "_start", "_timer", "_waiter", "_waits_since", "n_taken", "sink", "usages"),
    )

    def __init__(self, n_prompts: int, start: Start, *, ping_interval: float, retry: Retry = lambda *_: None) -> None:
        self.sink: Sink | None = None
        self.usages: list[Usage | None] = []
        """Token counts of the prompts whose answers are whole, in the order in which they became so."""
        self.n_taken = 0
        """Tokens that were taken."""
        self._n_prompts = n_prompts
        self._start = start
        self._retry = retry
        self._spoken = False
        """Something was said already, so that no call may start again."""
        self._running: dict[int, Cancel] = {}
        self._n_started = 0
        self._rows: list[Row] = []
        self._room = MAX_WAITING_ROWS
        self._error: Exception | None = None
        self._ping_interval = ping_interval
        self._silent = False
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._timer = self._loop.call_later(ping_interval, self._watch_for_silence)
        self._start_more()

    # ---- For the reader

    @property
    def is_over(self) -> bool:
        """All answers are whole, and all of their rows are taken."""
        return len(self.usages) == self._n_prompts and not self._rows and self._error is None

    async def take(self) -> list[Row]:
        """What has come since the last time. Empty at the end, and after a long silence.

        Raises BackendError, and what the sink has raised.
        """
        self._silent = False
        while not self._rows and not self._silent:
            if self._error is not None:
                raise self._error
            if len(self.usages) == self._n_prompts:
                break
            self._waits_since = self._loop.time()
            self._waiter = self._loop.create_future()
            await self._waiter
        rows, self._rows, self._room = self._rows, [], MAX_WAITING_ROWS
        self.n_taken += len(rows)
        return rows

    def _watch_for_silence(self) -> None:
        """One timer that comes back, since one for each wait would cost more than the token that ends it."""
        now = self._loop.time()
        since = self._waits_since if self._waiter is not None else now
        if now >= since + self._ping_interval:
            since, self._silent = now, True
            self._wake()
        self._timer = self._loop.call_at(since + self._ping_interval, self._watch_for_silence)

    def close(self) -> None:
        """Cancels the calls that still run. The sink gets nothing any more."""
        self._timer.cancel()
        self.sink = None
        running, self._running = self._running, {}
        for cancel in running.values():
            cancel()

    # ---- For the calls

    def put(self, index: int, token: bytes, reason: str | None, logprobs: Logprobs = ()) -> None:
        """`index` counts the choices of all prompts. `deliver` has to follow, after one or several rows."""
        rows = self._rows
        rows.append((index, token, reason, logprobs))
        self._spoken = True
        if len(rows) >= self._room:
            self._rows = merged(rows)
            self.n_taken += len(rows) - len(self._rows)
            self._room = len(self._rows) + MAX_WAITING_ROWS

    def deliver(self) -> None:
        """Passes on what was put: to the sink or the task. Neither, while the task writes: it comes back for them."""
        rows = self._rows
        if self._waiter is None or not rows:
            return
        if self.sink is None:
            self._wake()
            return
        try:
            is_written = self.sink(rows)
        except Exception as error:  # raised in the task that it is about, and not here, among others' rows
            self._error, self._rows, is_written = self._error or error, [], False
        if is_written:
            self.n_taken += len(rows)
            self._rows, self._room = [], MAX_WAITING_ROWS
            self._waits_since = self._loop.time()
        else:
            self._wake()

    def end(self, k: int, usage: Usage | None) -> None:
        """The answer to prompt k is whole."""
        self._running.pop(k, None)
        self.usages.append(usage)
        self._start_more()
        self._wake()

    def fail(self, k: int, error: BackendError) -> None:
        """The call for prompt k has ended with an error."""
        started = self._running.pop(k, None)
        if started and not self._spoken and not self._error and (again := self._retry(k, self, error)):
            self._running[k] = again
            return
        self._error = self._error or error
        self.close()
        self._wake()

    def _start_more(self) -> None:
        while self._n_started < self._n_prompts and len(self._running) < PROMPTS_IN_FLIGHT and self._error is None:
            k = self._n_started
            self._n_started += 1
            self._running[k] = self._start(k, self)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


def merged(rows: list[Row]) -> list[Row]:
    """One row a choice, in the order of their first."""
    by_choice: dict[int, tuple[list[bytes], list[str | None], list[TokenLogprob]]] = {}
    for index, token, reason, logprobs in rows:
        tokens, reasons, all_logprobs = by_choice.setdefault(index, ([], [], []))
        tokens.append(token)
        reasons.append(reason)
        all_logprobs += logprobs
    return [
        (index, b"".join(tokens), reasons[-1], logprobs) for index, (tokens, reasons, logprobs) in by_choice.items()
    ]
