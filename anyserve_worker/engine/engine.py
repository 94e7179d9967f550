"""The engine: one thread owns the model; requests are admitted and answered on the event loop.

Requests and cancellations reach the thread through an inbox. The output of a step reaches the requests' mailboxes
with one wake-up of the event loop per step. No client can block the thread.

A step computes one batch of generation (`text_steps.py`), then one batch of embeddings (`embedding_steps.py`).
"""

import asyncio
import logging
import threading
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from queue import Empty, SimpleQueue
from typing import Any

from anyserve_worker.core.delta import Delta
from anyserve_worker.core.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidRequest,
    QueueFull,
    WorkerError,
)
from anyserve_worker.core.generation_request import GenerationRequest
from anyserve_worker.core.options import MAX_RESERVED_CELLS, ModelOptions
from anyserve_worker.core.origin import UNKNOWN_ORIGIN, Origin
from anyserve_worker.core.task_requests import DetokenizeRequest, EmbedRequest, RankRequest, TokenizeRequest
from anyserve_worker.engine.embedding_steps import EmbeddingSteps
from anyserve_worker.engine.interruption import Interruption
from anyserve_worker.engine.preparation import Preparation
from anyserve_worker.engine.running_request import RunningEmbedding, RunningGeneration
from anyserve_worker.engine.stats import EngineLoad, EngineStats
from anyserve_worker.engine.text_steps import TextRunner, TextSteps
from anyserve_worker.engine.tokenizer import Tokenizer, Vocabulary
from anyserve_worker.guides.compiler import GuideCompiler
from anyserve_worker.scheduling.background import BackgroundPolicy
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, VectorRunner
from anyserve_worker.scheduling.kv_cache import KVCache
from anyserve_worker.scheduling.scheduler import Scheduler
from anyserve_worker.scheduling.tiers import Tiers, tier_of
from anyserve_worker.threads.chooser import ThreadChooser
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest

log = logging.getLogger(__name__)

RunningRequest = RunningGeneration | RunningEmbedding


class Engine:
    def __init__(
        self,
        vocabulary: Vocabulary,
        runner: TextRunner,
        options: ModelOptions,
        threads: ThreadChooser,
        clock: Callable[[], float] = time.monotonic,
        *,
        vector_runner: VectorRunner | None = None,
        vector_threads: ThreadChooser | None = None,
        on_end: Callable[[RunningGeneration], None] = lambda _: None,
    ) -> None:
        """`vector_runner` computes embeddings and scores; None: the engine generates only. `vector_threads` chooses the
        threads of its batches; None: one thread.

        `on_end` is called on the event loop with each generation that has ended.
        """
        self.n_ctx, self.n_cells = runner.n_ctx, runner.n_cells
        self.stats = EngineStats()
        self._threads = threads
        self._clock = clock
        self._max_requests = options.parallel + options.max_queue
        ordinary = Scheduler(
            KVCache(runner, runner.n_cells, runner.n_sequences, options.prefix_cache),
            options.parallel,
            runner.n_batch,
            options.prefill_chunk,
            runner.mixes,
            runner.prompt_lookup,
            runner.n_score_rows,
            kept_slots=max(0, min(options.kept_slots, runner.n_sequences - options.parallel)),
            kept_cells=max(0, min(MAX_RESERVED_CELLS, runner.n_cells - runner.n_ctx)) if options.kept_slots else 0,
        )
        self._policy = BackgroundPolicy(options.background_share, runner.interruptible)
        self._scheduler = Tiers(ordinary, self._policy)
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._interruption = Interruption(runner)
        self._outbox: list[tuple[RunningRequest, Delta | WorkerError | None]] = []
        self._ended: list[RunningGeneration] = []
        self._on_end = on_end
        self._text_steps = TextSteps(
            vocabulary,
            runner,
            self._scheduler,
            threads,
            self.stats,
            self._interruption,
            self._post,
            lambda generation: self._ended.append(generation),
        )
        self._vector_runner = vector_runner
        self._embedding_steps: EmbeddingSteps | None = None
        if vector_runner:
            chooser = vector_threads or ThreadChooser((1,), (1,))
            self._embedding_steps = EmbeddingSteps(vector_runner, chooser, self.stats, self._policy, self._post)
        self._n_requests = [0, 0]
        """Requests that were admitted and are not answered yet: ordinary ones, and those of background work. Each kind
        has a limit of its own. Counted on the event loop."""
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._tokenizer = Tokenizer(vocabulary, runner.n_ctx)
        self._guides = GuideCompiler(vocabulary, self.stats, self._max_requests)
        self._preparation = Preparation(vocabulary, runner, self._tokenizer, self._guides, self._refuse_if_closing)

    # ---- On the event loop

    def start(self) -> None:
        """Starts the thread; deltas are delivered on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    @property
    def n_requests(self) -> int:
        return sum(self._n_requests)

    @property
    def n_running(self) -> int:
        return self._scheduler.n_running

    @property
    def n_waiting(self) -> int:
        return self._scheduler.n_waiting

    @property
    def n_guides_waiting(self) -> int:
        return self._guides.n_waiting

    @property
    def n_preempted(self) -> int:
        return self._scheduler.n_preempted

    @property
    def n_background_preempted(self) -> int:
        return self._scheduler.n_background_preempted

    @property
    def n_running_tokens(self) -> int:
        """Tokens of running sequences that have KV cells; those of a shared prefix count for each sequence."""
        return sum(sequence.n_computed for sequence in self._scheduler.running)

    @property
    def threads_chosen(self) -> list[tuple[bool, int, int]]:
        """(whether with prompts, minimum number of tokens, threads) for each kind of step so far."""
        return self._threads.chosen

    @property
    def n_free_cells(self) -> int:
        return self._scheduler.cache.n_free_cells

    @property
    def load(self) -> EngineLoad:
        """The load without background work, which makes room for other requests."""
        embedding = self._embedding_steps
        return EngineLoad(
            n_waiting=len(self._scheduler.ordinary.waiting)
            + self.n_guides_waiting
            + (embedding.n_waiting if embedding else 0),
            n_running=len(self._scheduler.ordinary.running) + (embedding.n_running if embedding else 0),
            n_cells=self.n_cells,
            n_running_cells=self._scheduler.n_ordinary_cells,
        )

    async def submit(self, request: GenerationRequest, origin: Origin = UNKNOWN_ORIGIN) -> RunningGeneration:
        """Starts a generation; the caller iterates over it to its end, or cancels it.

        Raises QueueFull, InvalidRequest, ContextLengthExceeded, DeadlineExceeded or Draining.
        """
        deadline = self._deadline(request.timeout)
        with self._admitted(background=tier_of(request.priority) > 0):
            async with _time_limit(request.timeout):
                sequences = await self._preparation.sequences(request)
        generation = RunningGeneration(sequences, deadline, self.abort, origin)
        self._inbox.put(lambda: self._text_steps.add(generation))
        if not generation.background:
            self._interruption.request()
        return generation

    async def embed(self, request: EmbedRequest | RankRequest) -> EmbeddingJob:
        """Returns the finished job. Raises WorkerError, as `submit` does. Cancelling the call drops the job."""
        assert self._vector_runner is not None
        assert self._embedding_steps is not None
        steps, runner = self._embedding_steps, self._vector_runner
        pooling, deadline = runner.pooling, self._deadline(request.timeout)
        with self._admitted(background=tier_of(request.priority) > 0):
            async with _time_limit(request.timeout):
                if isinstance(request, RankRequest):
                    tokens = await self._tokenizer.tokens_to_rank(request.query, request.document, runner.n_ctx)
                else:
                    tokens = await self._tokenizer.tokens_to_embed(request.prompt, runner.n_ctx)
                    pooling = request.pooling or pooling
            if isinstance(request, EmbedRequest) and (request.dimensions or 0) > runner.n_embedding:
                name = contract.DIMENSIONS.name
                problem = f"{request.dimensions}, the model has {runner.n_embedding}"
                raise InvalidRequest(f"tensor '{name}': {problem}", tensor=name)
        job = EmbeddingJob(tokens, pooling, request.caller, request.priority)
        embedding = RunningEmbedding(job, deadline, self._abort_embedding)
        self._inbox.put(lambda: steps.add(embedding))
        if not embedding.background:
            self._interruption.request()
        try:
            return await embedding.result()
        finally:
            embedding.cancel()

    async def tokenize(self, request: TokenizeRequest) -> tuple["array[int]", list[bytes]]:
        """Returns the token ids and the bytes of each token. Raises the errors of `submit`."""
        with self._admitted(until_answered=False):
            return await self._tokenizer.split(
                request.text, add_special=request.add_special, parse_special=request.parse_special, plain=request.plain
            )

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """Returns the bytes of the text. Raises the errors of `submit`."""
        with self._admitted(until_answered=False):
            return await self._tokenizer.join(request.token_ids)

    def refuse_too_many_ids(self, task: str, request: ModelInferRequest) -> None:
        """Called before the request is parsed. Raises ContextLengthExceeded."""
        n_ids = tensors.n_ids(request, contract.PROMPT_TOKEN_IDS.name)
        if n_ids > tensors.MIN_ARRAY_ELEMENTS:
            self._tokenizer.refuse_too_many(task, n_ids, self._vector_runner.n_ctx if self._vector_runner else 0)

    def abort(self, generation: RunningGeneration) -> None:
        """Ends a generation early, because its caller is gone. Nothing more is delivered."""
        self._n_requests[generation.background] -= 1
        self._inbox.put(lambda: self._text_steps.abort(generation))

    def _abort_embedding(self, embedding: RunningEmbedding) -> None:
        self._n_requests[embedding.background] -= 1
        if steps := self._embedding_steps:
            self._inbox.put(lambda: steps.abort(embedding))

    async def close(self) -> None:
        """Fails the remaining requests and ends the threads. Afterwards the runner and the vocabulary may be freed."""
        self._closing = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)
        await self._guides.close()
        await self._tokenizer.close()

    @contextmanager
    def _admitted(self, *, background: bool = False, until_answered: bool = True) -> Iterator[None]:
        """Counts a request against the limit, during the block or, unless the block fails, until it is answered.

        Raises QueueFull or Draining.
        """
        self._refuse_if_closing()
        n_requests = self._n_requests
        if n_requests[background] >= self._max_requests:
            self.stats.requests_refused += 1
            kind = "background requests" if background else "requests"
            raise QueueFull(f"{n_requests[background]} {kind} are already running or waiting; try again later")
        n_requests[background] += 1
        try:
            yield
            self._refuse_if_closing()  # The thread may have ended while a long prompt was tokenized.
        except BaseException:
            until_answered = False
            raise
        finally:
            n_requests[background] -= not until_answered

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._clock() + timeout

    def _fill_mailboxes(self, outbox: list[tuple[RunningRequest, Any]], ended: list[RunningGeneration]) -> None:
        for request, item in outbox:
            if not request.done:
                request.put(item)
                self._n_requests[request.background] -= request.done
        for generation in ended:
            self._on_end(generation)

    # ---- On the engine's thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._run_inbox(wait=self._scheduler.idle and (not self._embedding_steps or self._embedding_steps.idle))
                self.step()
            except Exception as error:
                log.exception("a step failed")
                self._fail_all(EngineFailure(f"the engine could not compute a step: {error}"))
            self._deliver()
        self._run_inbox(wait=False)
        self._fail_all(Draining("the worker is shutting down"))
        self._deliver()

    def step(self) -> None:
        """Computes one step and puts its deltas and errors into the outbox."""
        now = self._clock()
        self._text_steps.expire(now)
        if self._embedding_steps:
            self._embedding_steps.expire(now)
        if not (embedding := self._embedding_steps):
            self._text_steps.step()
            return
        before = self.stats.steps.ns
        self._text_steps.step(busy=embedding.busy)
        scheduler = self._scheduler
        if embedding.background_waits and scheduler.background_idle and not scheduler.ordinary.idle:
            self._policy.record_beside((self.stats.steps.ns - before) / 1e9, n_added=0, held_back=True)
        # Only one batch, so that streams continue.
        embedding.step(now, busy=not scheduler.ordinary.idle, waits=not scheduler.background_idle)

    def _run_inbox(self, *, wait: bool) -> None:
        self._interruption.forget()
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _post(self, request: RunningRequest, item: Delta | WorkerError | None) -> None:
        self._outbox.append((request, item))

    def _deliver(self) -> None:
        if (self._outbox or self._ended) and self._loop is not None:
            outbox, self._outbox = self._outbox, []
            ended, self._ended = self._ended, []
            self._loop.call_soon_threadsafe(self._fill_mailboxes, outbox, ended)

    def _fail_all(self, error: WorkerError) -> None:
        self._text_steps.fail_all(error)
        if self._embedding_steps:
            self._embedding_steps.fail_all(error)


@asynccontextmanager
async def _time_limit(timeout: float | None) -> AsyncIterator[None]:
    """Limits the preparation of a request to `timeout` seconds. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the request's timeout has passed") from None
