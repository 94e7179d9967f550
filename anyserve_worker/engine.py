"""The engine: one thread owns the model and takes one step after the other.

Requests and cancellations come in through an inbox; what a step yields goes out through mailboxes on the event loop,
with one wake-up of the loop a step. Nothing that a client does can block the thread.

A sequence ends in one of two ways: `_finish`, when it has its finish_reason, or `_abort`, for everything else (client
gone, deadline passed, engine failure, shutdown). Both free its cells before the next step.
"""

import asyncio
import logging
import threading
import time
from array import array
from collections import deque
from collections.abc import AsyncIterator, Callable
from collections.abc import Sequence as Items
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import Protocol

from anyserve_worker.errors import (
    ContextLengthExceeded,
    DeadlineExceeded,
    Draining,
    EngineFailure,
    NoRoom,
    QueueFull,
    WorkerError,
)
from anyserve_worker.kv_cache import KVCache, Memory
from anyserve_worker.options import ModelOptions
from anyserve_worker.output import TextOutput
from anyserve_worker.request import Delta, GenerationRequest
from anyserve_worker.scheduler import Chunk, Scheduler
from anyserve_worker.sequence import Sequence, token_array
from protos import contract

log = logging.getLogger(__name__)

INLINE_TOKENIZE = 4096
"""Characters. Tokenizing a longer prompt takes milliseconds and is done off the event loop."""
TOKENIZER_THREADS = 4
"""So many long prompts are tokenized at the same time."""


class Vocabulary(Protocol):
    """What the engine asks of `model_runner.Model`. Safe from any thread."""

    def tokenize(self, prompt: str) -> "array[int]": ...
    def check_tokens(self, token_ids: "array[int]") -> None: ...
    def piece(self, token: int) -> bytes: ...
    def is_end(self, token: int) -> bool: ...


class Runner(Memory, Protocol):
    """What the engine asks of `model_runner.ModelRunner`, from its own thread only."""

    n_ctx: int
    n_batch: int
    n_cells: int
    n_sequences: int

    def run(self, chunks: list[Chunk]) -> None: ...
    def sample(self, chunks: list[Chunk]) -> list[tuple[Sequence, int]]: ...
    def clear(self) -> None: ...


@dataclass(slots=True)
class Counter:
    """Triton's StatisticDuration."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class EngineStats:
    """Written by the engine's thread. Durations: `success`, `failure` whole requests, `queue` until first computed."""

    success: Counter = field(default_factory=Counter)
    failure: Counter = field(default_factory=Counter)
    queue: Counter = field(default_factory=Counter)
    steps: Counter = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    last_request_ms: int = 0
    """Unix time at which the last request came."""


class Generation:
    """A request in the engine, as its caller on the event loop sees it.

    Iterate to get what has come since the last time: a list of deltas, in order. Raises WorkerError where the request
    failed. Leaving the iteration early is not enough to stop the engine: `cancel()`.
    """

    def __init__(self, engine: "Engine", sequences: list[Sequence], deadline: float | None) -> None:
        self._engine = engine
        self._mailbox: deque[Delta | WorkerError] = deque()
        self._arrived = asyncio.Event()
        self._open_choices = len(sequences)
        self._failed = False
        self.sequences = sequences
        self.deadline = deadline
        self.submitted_ns = time.monotonic_ns()
        self.started = False

    @property
    def done(self) -> bool:
        """Nothing more will come than what is in the mailbox, which may end with an error."""
        return self._open_choices == 0

    @property
    def complete(self) -> bool:
        """Every choice has come to its end, none with an error."""
        return self.done and not self._failed

    def cancel(self) -> None:
        """The caller is gone; the engine drops the request before its next step."""
        if not self.done:
            self._open_choices = 0
            self._engine.abort(self)

    def put(self, item: Delta | WorkerError) -> None:
        """Called on the event loop only."""
        if self.done:
            return
        if isinstance(item, WorkerError):
            self._open_choices, self._failed = 0, True
        elif item.finish_reason:
            self._open_choices -= 1
        self._mailbox.append(item)
        self._arrived.set()

    async def __aiter__(self) -> AsyncIterator[list[Delta]]:
        while self._mailbox or not self.done:
            await self._arrived.wait()
            self._arrived.clear()
            deltas: list[Delta] = []
            while self._mailbox:
                item = self._mailbox.popleft()
                if isinstance(item, WorkerError):
                    if deltas:
                        yield deltas
                    raise item
                deltas.append(item)
            yield deltas


class Engine:
    def __init__(
        self,
        vocabulary: Vocabulary,
        runner: Runner,
        options: ModelOptions,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.n_ctx = runner.n_ctx
        self.stats = EngineStats()
        self._vocabulary = vocabulary
        self._runner = runner
        self._clock = clock
        self._max_requests = options.parallel + options.max_queue
        self._cache = KVCache(runner, runner.n_cells, runner.n_sequences, options.prefix_cache)
        self._scheduler = Scheduler(self._cache, options.parallel, runner.n_batch, options.prefill_chunk)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._outbox: list[tuple[Generation, Delta | WorkerError]] = []
        self._live: set[Generation] = set()
        self._owner: dict[Sequence, Generation] = {}
        self._n_requests = 0
        """Requests that have not been answered yet; counted on the event loop."""
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._tokenizers = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")

    # ---- On the event loop

    def start(self) -> None:
        """Starts the thread; deltas are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def n_requests(self) -> int:
        return self._n_requests

    @property
    def n_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def n_free_cells(self) -> int:
        return self._cache.n_free_cells

    async def submit(self, request: GenerationRequest) -> Generation:
        """Raises QueueFull, InvalidRequest, ContextLengthExceeded or Draining. The caller iterates, or cancels."""
        self._refuse_if_closing()
        if self._n_requests >= self._max_requests:
            raise QueueFull(f"{self._n_requests} requests are running or waiting already; try again later")
        self._n_requests += 1
        try:
            prompt = await self._tokens(request.prompt)
            if len(prompt) >= self.n_ctx:
                raise self._too_long(request.prompt, str(len(prompt)))
            self._refuse_if_closing()  # The thread may have ended while a long prompt was tokenized.
        except BaseException:
            self._n_requests -= 1
            raise
        generation = Generation(self, self._sequences(request, prompt), self._deadline(request))
        self._inbox.put(lambda: self._start(generation))
        return generation

    def abort(self, generation: Generation) -> None:
        """The one way out before the end; the caller gets nothing more."""
        self._n_requests -= 1
        self._inbox.put(lambda: self._abort(generation, None))

    async def close(self) -> None:
        """Fails what is still there, ends the threads. The runner and the vocabulary may be freed afterwards."""
        self._closing = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)
        # The caller of a tokenizer may be gone, but the thread still reads the vocabulary.
        await asyncio.to_thread(self._tokenizers.shutdown)

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    async def _tokens(self, prompt: str | Items[int]) -> "array[int]":
        if not isinstance(prompt, str):
            tokens = token_array(prompt)
            self._vocabulary.check_tokens(tokens)
            return tokens
        if len(prompt) <= INLINE_TOKENIZE:
            return self._vocabulary.tokenize(prompt)
        return await asyncio.get_running_loop().run_in_executor(self._tokenizers, self._tokenize, prompt)

    def _tokenize(self, prompt: str) -> "array[int]":
        """Looks at a part first, then at a larger one: a prompt that is far too long is not tokenized to its end.

        llama.cpp takes a time that grows with the square of the special tokens: 40 s for 80,000, and cannot be stopped.
        """
        size = max(INLINE_TOKENIZE, 4 * self.n_ctx)
        while size < len(prompt):
            self._refuse_if_closing()
            n = len(self._vocabulary.tokenize(prompt[:size]))
            if n > 2 * self.n_ctx:  # A part's last word may become more tokens than it would in the whole; not so many.
                raise self._too_long(prompt, f"more than {n // 2}")
            size *= 2
        self._refuse_if_closing()
        return self._vocabulary.tokenize(prompt)

    def _too_long(self, prompt: str | Items[int], n: str) -> ContextLengthExceeded:
        tensor = contract.PROMPT if isinstance(prompt, str) else contract.PROMPT_TOKEN_IDS
        return ContextLengthExceeded(
            f"tensor '{tensor.name}': {n} tokens, but the context of this model is {self.n_ctx} tokens, "
            "prompt and completion together",
            tensor=tensor.name,
        )

    def _sequences(self, request: GenerationRequest, prompt: "array[int]") -> list[Sequence]:
        room = self.n_ctx - len(prompt)
        n_new = room if request.max_tokens is None else min(room, request.max_tokens)
        return [
            Sequence(
                index=index,
                tokens=prompt[:],
                n_prompt=len(prompt),
                limit=len(prompt) + n_new,
                sampling=request.sampling,
                output=TextOutput(request.stop),
            )
            for index in range(request.n)
        ]

    def _deadline(self, request: GenerationRequest) -> float | None:
        return None if request.timeout is None else self._clock() + request.timeout

    def _hand_over(self, outbox: list[tuple[Generation, Delta | WorkerError]]) -> None:
        for generation, item in outbox:
            if not generation.done:
                generation.put(item)
                self._n_requests -= generation.done

    # ---- On the engine's thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._take_in(wait=self._scheduler.idle)
                self.step()
            except Exception as error:
                log.exception("a step failed")
                self._fail_all(EngineFailure(f"the engine could not compute a step: {error}"))
            self._deliver()
        self._take_in(wait=False)
        self._fail_all(Draining("the worker is shutting down"))
        self._deliver()

    def step(self) -> None:
        """Schedule, run, sample, commit. What came of it is in the outbox."""
        self._expire()
        chunks = self._scheduler.schedule()
        if not chunks or not self._computed(chunks):
            return
        sampled = self._runner.sample(chunks)
        self._scheduler.commit(chunks)
        for sequence, token in sampled:
            self._append(sequence, token)

    def _take_in(self, *, wait: bool) -> None:
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _computed(self, chunks: list[Chunk]) -> bool:
        """Runs the chunks. False if there was no place for them: then some was made, and the next step tries again."""
        started = time.monotonic_ns()
        try:
            self._runner.run(chunks)
        except NoRoom:
            if not self._scheduler.relieve():
                self._fail_all(EngineFailure("the KV cache has no place for a single sequence"))
            return False
        now = time.monotonic_ns()
        self.stats.steps.add(now - started)
        for chunk in chunks:
            generation = self._owner[chunk.sequence]
            if not generation.started:
                generation.started = True
                self.stats.queue.add(started - generation.submitted_ns)
                self.stats.prompt_tokens += chunk.sequence.n_prompt
                self.stats.cached_tokens += chunk.sequence.n_cached
        return True

    def _append(self, sequence: Sequence, token: int) -> None:
        sequence.tokens.append(token)
        self.stats.generated_tokens += 1
        output, text, reason = sequence.output, "", None
        if self._vocabulary.is_end(token):
            reason = contract.FINISH_STOP
        else:
            text = output.push(self._vocabulary.piece(token))
            if not output.stopped and len(sequence.tokens) >= sequence.limit:
                reason = contract.FINISH_LENGTH
        if reason:
            text += output.flush()
        if output.stopped:
            reason = contract.FINISH_STOP
        if text or reason:
            self._emit(sequence, text, reason)
        if reason:
            self._finish(sequence)

    def _emit(self, sequence: Sequence, text: str, reason: str | None) -> None:
        generation = self._owner[sequence]
        delta = Delta(
            index=sequence.index,
            text=text,
            finish_reason=reason,
            completion_tokens=sequence.n_generated,
            prompt_tokens=sequence.n_prompt,
            cached_tokens=max(0, generation.sequences[0].n_cached),
        )
        self._outbox.append((generation, delta))

    def _deliver(self) -> None:
        if self._outbox and self._loop is not None:
            outbox, self._outbox = self._outbox, []
            self._loop.call_soon_threadsafe(self._hand_over, outbox)

    # ---- Beginning and end of a request

    def _start(self, generation: Generation) -> None:
        self.stats.last_request_ms = time.time_ns() // 1_000_000
        self._live.add(generation)
        for sequence in generation.sequences:
            self._owner[sequence] = generation
        for sequence in generation.sequences:
            if sequence.limit > sequence.n_prompt:
                self._scheduler.add(sequence)
            else:
                self._emit(sequence, "", contract.FINISH_LENGTH)
                self._close(sequence)

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._close(sequence)

    def _abort(self, generation: Generation, error: WorkerError | None) -> None:
        if generation not in self._live:
            return
        for sequence in generation.sequences:
            if sequence in self._owner:
                self._scheduler.remove(sequence)
                self._close(sequence, failed=True)
        if error:
            self._outbox.append((generation, error))

    def _close(self, sequence: Sequence, *, failed: bool = False) -> None:
        """The sequence is out of the scheduler. With the last of its request, the request is over."""
        if sequence.sampler:
            sequence.sampler.free()
        generation = self._owner.pop(sequence)
        if generation in self._live and not any(other in self._owner for other in generation.sequences):
            self._live.remove(generation)
            counter = self.stats.failure if failed else self.stats.success
            counter.add(time.monotonic_ns() - generation.submitted_ns)

    def _expire(self) -> None:
        now = self._clock()
        for generation in list(self._live):
            if generation.deadline is not None and now >= generation.deadline:
                self._abort(generation, DeadlineExceeded("the request's timeout has passed"))

    def _fail_all(self, error: WorkerError) -> None:
        for generation in list(self._live):
            self._abort(generation, error)
        self._cache.clear()
        self._runner.clear()
