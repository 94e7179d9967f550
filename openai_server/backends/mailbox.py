"""Collects the answers to one HTTP request until it takes them. It may have several prompts with several choices."""

import asyncio
from collections.abc import Callable, Sequence

from openai_server.core.errors import BackendError
from openai_server.core.logprobs import Logprobs, TokenLogprob
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage, total, total_prompt

PROMPTS_IN_FLIGHT = 16
"""Maximum number of concurrent calls for one request, so that a list of a thousand prompts doesn't fill the backend's
queue."""
MAX_WAITING_ROWS = 256
"""Maximum number of waiting rows. Beyond that, the rows of each choice are merged, so that a slow client costs no more
memory than its text."""

Cancel = Callable[[], object]
Start = Callable[[int, "Mailbox"], Cancel]
"""Starts the call for prompt k, which puts its results into the mailbox. Returns a function that cancels the call."""
Retry = Callable[[int, "Mailbox", BackendError], Cancel | None]
"""Starts a failed call again on another backend; None if no other backend could answer it."""
Sink = Callable[[list[Row]], bool]
"""Writes the rows to the client without waiting. Returns False if it can't at the moment; then it has done nothing."""


class Mailbox:
    """Filled on the event loop without waiting, and read by one task. The first failure ends all calls.

    While the task waits in `take`, `sink` gets the rows instead, so that a token doesn't wake a task. The task still
    gets the rows that the sink refuses, the end, and all errors.

    `ping_interval`: seconds of silence after which `take` returns an empty list.
    """

    __slots__ = (  # one for each stream, and all of them are touched in every step
        *("_error", "_has_begun", "_loop", "_n_prompts", "_n_started", "_ping_interval", "_retry", "_room", "_rows"),
        *("_has_news", "_progress", "_running", "_silent", "_start", "_timer", "_waiter", "_waits_since", "is_stopped"),
        *("n_taken", "prompt_usages", "sink", "timings", "usages"),
    )

    def __init__(self, n_prompts: int, start: Start, *, ping_interval: float, retry: Retry = lambda *_: None) -> None:
        self.sink: Sink | None = None
        self.usages: list[Usage | None] = []
        """Token counts of the prompts with complete answers, in the order of their completion."""
        self.prompt_usages: dict[int, PromptUsage] = {}
        """Token counts of the prompts, by prompt. A backend may report them only with the complete answer, or never."""
        self.timings: Timings | None = None
        """Times of an answer to one prompt, up to the last row. None: not requested."""
        self._progress: list[Progress] = []
        self._has_news = False
        """Whether progress has arrived since the last `take`."""
        self.n_taken = 0
        """Number of tokens taken by the task or the sink."""
        self._n_prompts = n_prompts
        self._start = start
        self._retry = retry
        self._has_begun = False
        """Whether a row has arrived; after that no call may be retried."""
        self._running: dict[int, Cancel] = {}
        self._n_started = 0
        self._rows: list[Row] = []
        self._room = MAX_WAITING_ROWS
        self.is_stopped = False
        """Whether `stop` was called."""
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
        """Whether all answers are complete and all rows are taken, or `stop` was called."""
        if self.is_stopped:
            return True
        return len(self.usages) == self._n_prompts and not self._rows and self._error is None

    def prompt_usage(self) -> PromptUsage | None:
        """The sum over all prompts; None if the backend has not reported the counts of each."""
        return total_prompt(map(self.prompt_usages.get, range(self._n_prompts)))

    @property
    def usage_so_far(self) -> Usage | None:
        """Token counts of an answer that is cut off now: those of the prompts that were started, and one token for each
        taken row unless the backend has counted more. None if the counts of a started prompt are unknown."""
        prompts = total_prompt(map(self.prompt_usages.get, range(self._n_started)))
        if prompts is None:
            return None
        n_counted = sum(usage.completion for usage in self.usages if usage is not None)
        if self.timings is not None:
            n_counted = max(n_counted, self.timings.usage.completion)
        return Usage(prompts.prompt, max(self.n_taken, n_counted), prompts.cached)

    @property
    def usage(self) -> Usage | None:
        """Token counts at the end; None if they are unknown."""
        return total(self.usages) if len(self.usages) == self._n_prompts else self.usage_so_far

    async def take(self) -> list[Row]:
        """The rows that have arrived since the last call. Empty at the end, after a long silence, and if only progress
        has arrived.

        Raises BackendError, and what the sink has raised.
        """
        self._silent = False
        while not self._rows and not self._silent and not self._has_news:
            if self._error is not None:
                raise self._error
            if self.is_stopped or len(self.usages) == self._n_prompts:
                break
            self._waits_since = self._loop.time()
            self._waiter = self._loop.create_future()
            await self._waiter
        self._has_news = False
        rows, self._rows, self._room = self._rows, [], MAX_WAITING_ROWS
        self.n_taken += len(rows)
        return rows

    def take_progress(self) -> list[Progress]:
        """The progress of the prompt since the last call."""
        progress, self._progress = self._progress, []
        return progress

    def _watch_for_silence(self) -> None:
        """Checks for silence with one recurring timer: a timer for each wait would cost more than a token."""
        now = self._loop.time()
        since = self._waits_since if self._waiter is not None else now
        if now >= since + self._ping_interval:
            since, self._silent = now, True
            self._wake()
        self._timer = self._loop.call_at(since + self._ping_interval, self._watch_for_silence)

    def stop(self) -> None:
        """Ends the answers before they are complete, and wakes the task. Rows that arrive later don't count."""
        self.is_stopped = True
        self.close()
        self._wake()

    def close(self) -> None:
        """Cancels the running calls. The sink gets no more rows."""
        self._timer.cancel()
        self.sink = None
        running, self._running = self._running, {}
        for cancel in running.values():
            cancel()

    # ---- For the calls

    def begin(self, k: int, usage: PromptUsage) -> None:
        """Records the token counts of prompt k. Must come before its rows are delivered."""
        self.prompt_usages[k] = usage

    def report(self, progress: Sequence[Progress]) -> None:
        """Adds progress of the prompt."""
        self._progress += progress
        self._has_news = True
        self._wake()

    def put(self, index: int, token: bytes, reason: str | None, logprobs: Logprobs = ()) -> None:
        """Adds a row. `index` counts the choices of all prompts. `deliver` must follow after one or several rows."""
        rows = self._rows
        rows.append((index, token, reason, logprobs))
        self._has_begun = True
        if len(rows) >= self._room:
            self._rows = merged(rows)
            self.n_taken += len(rows) - len(self._rows)
            self._room = len(self._rows) + MAX_WAITING_ROWS

    def deliver(self) -> None:
        """Passes the rows on to the sink or the task. While the task is busy, the rows wait until it calls `take`."""
        rows = self._rows
        if self._waiter is None or not rows:
            return
        if self.sink is None:
            self._wake()
            return
        try:
            is_written = self.sink(rows)
        except Exception as error:  # raised in the task of this request, not here among the rows of others
            self._error, self._rows, is_written = self._error or error, [], False
        if is_written:
            self.n_taken += len(rows)
            self._rows, self._room = [], MAX_WAITING_ROWS
            self._waits_since = self._loop.time()
        else:
            self._wake()

    def end(self, k: int, usage: Usage | None) -> None:
        """Records that the answer to prompt k is complete."""
        self._running.pop(k, None)
        self.usages.append(usage)
        if usage is not None:
            self.prompt_usages[k] = PromptUsage(usage.prompt, usage.cached)
        self._start_more()
        self._wake()

    def fail(self, k: int, error: BackendError) -> None:
        """Records that the call for prompt k has ended with an error."""
        started = self._running.pop(k, None)
        if started and not self._has_begun and not self._error and (cancel := self._retry(k, self, error)):
            self._running[k] = cancel
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
    """One row for each choice, in the order of the choices' first rows."""
    by_choice: dict[int, tuple[list[bytes], list[str | None], list[TokenLogprob]]] = {}
    for index, token, reason, logprobs in rows:
        tokens, reasons, all_logprobs = by_choice.setdefault(index, ([], [], []))
        tokens.append(token)
        reasons.append(reason)
        all_logprobs += logprobs
    return [
        (index, b"".join(tokens), reasons[-1], logprobs) for index, (tokens, reasons, logprobs) in by_choice.items()
    ]
