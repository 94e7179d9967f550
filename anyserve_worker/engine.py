"""The engine: one thread owns the model; requests are let in, made ready and told of their answers on the event loop.

Requests and cancellations come to the thread through an inbox; what a step yields goes out through mailboxes on the
event loop, with one wake-up of the loop a step. Nothing that a client does can block the thread.

A step is one of generation (`generations.py`), and behind it one batch of embeddings, if any wait (`embeddings.py`).
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

from anyserve_worker import sequence
from anyserve_worker.delta import Delta
from anyserve_worker.echo import echo_of
from anyserve_worker.embedder import Job, Pooler
from anyserve_worker.embeddings import Embedding, Embeddings
from anyserve_worker.errors import DeadlineExceeded, Draining, EngineFailure, InvalidRequest, QueueFull, WorkerError
from anyserve_worker.generation import Generation
from anyserve_worker.generations import Generations, Runner
from anyserve_worker.kv_cache import KVCache
from anyserve_worker.logprobs import LogprobOutput
from anyserve_worker.mark import Mark
from anyserve_worker.options import ModelOptions
from anyserve_worker.output import TextOutput
from anyserve_worker.request import GenerationRequest, Guide, SamplingParams
from anyserve_worker.scheduler import Scheduler
from anyserve_worker.sequence import Sequence
from anyserve_worker.stats import EngineStats
from anyserve_worker.tasks import DetokenizeRequest, EmbedRequest, RankRequest, TokenizeRequest
from anyserve_worker.telemetry.origin import NOBODY, Origin
from anyserve_worker.threads import ThreadChooser
from anyserve_worker.tokenizer import Tokenizer, Vocabulary
from protos import contract

log = logging.getLogger(__name__)

MAX_ECHOED_LOGPROBS = 1 << 20
"""Log probabilities of prompts in one answer, those of the likeliest tokens included: some 100 bytes each."""


class Engine:
    def __init__(
        self,
        vocabulary: Vocabulary,
        runner: Runner,
        options: ModelOptions,
        threads: ThreadChooser,
        clock: Callable[[], float] = time.monotonic,
        *,
        pooler: Pooler | None = None,
        pooler_threads: ThreadChooser | None = None,
        on_end: Callable[[Generation], None] = lambda _: None,
    ) -> None:
        """With a `pooler` it embeds or ranks; `pooler_threads` is for that alone, absent means one thread.

        `on_end` is called on the event loop for each generation that has ended.
        """
        self.n_ctx, self.n_cells = runner.n_ctx, runner.n_cells
        self.stats = EngineStats()
        self._vocabulary = vocabulary
        self._runner = runner
        self._threads = threads
        self._clock = clock
        self._max_requests = options.parallel + options.max_queue
        self._scheduler = Scheduler(
            KVCache(runner, runner.n_cells, runner.n_sequences, options.prefix_cache),
            options.parallel,
            runner.n_batch,
            options.prefill_chunk,
            runner.mixes,
            runner.prompt_lookup,
            runner.n_score_rows,
        )
        self._inbox: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._outbox: list[tuple[Generation | Embedding, Delta | WorkerError | None]] = []
        self._ended: list[Generation] = []
        self._on_end = on_end
        self._generations = Generations(
            vocabulary,
            runner,
            self._scheduler,
            threads,
            self.stats,
            self._post,
            lambda generation: self._ended.append(generation),
        )
        self._pooler = pooler
        self._embeddings: Embeddings | None = None
        if pooler:
            chooser = pooler_threads or ThreadChooser((1,), (1,))
            self._embeddings = Embeddings(pooler, chooser, self.stats, self._post)
        self._n_requests = 0
        """Requests that have not been answered yet; counted on the event loop."""
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._tokenizer = Tokenizer(vocabulary, runner.n_ctx)

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
    def n_waiting(self) -> int:
        return len(self._scheduler.waiting)

    @property
    def n_preempted(self) -> int:
        return self._scheduler.n_preempted

    @property
    def n_kept(self) -> int:
        """Tokens of running sequences that have KV cells; those of a shared prefix count for each."""
        return sum(sequence.n_computed for sequence in self._scheduler.running.copy())

    @property
    def threads_chosen(self) -> list[tuple[bool, int, int]]:
        """(with prompts, least number of tokens, threads) for each kind of step that there was."""
        return self._threads.chosen

    @property
    def n_free_cells(self) -> int:
        return self._scheduler.cache.n_free_cells

    async def submit(self, request: GenerationRequest, origin: Origin = NOBODY) -> Generation:
        """Raises QueueFull, InvalidRequest, ContextLengthExceeded, DeadlineExceeded or Draining. The caller iterates,
        or cancels."""
        deadline = self._deadline(request.timeout)
        with self._place():
            async with _within(request.timeout):
                prompt = await self._tokenizer.tokens(request.prompt, request.suffix)
                sequences = await self._sequences(request, prompt)
        generation = Generation(sequences, deadline, self.abort, origin)
        self._inbox.put(lambda: self._generations.add(generation))
        return generation

    async def embed(self, request: EmbedRequest | RankRequest) -> Job:
        """When it is done. Raises as `submit` does, and for what goes wrong later. To cancel it drops the request."""
        assert self._pooler is not None
        assert self._embeddings is not None
        embeddings, pooling, most = self._embeddings, self._pooler.pooling, self._pooler.n_embedding
        deadline = self._deadline(request.timeout)
        with self._place():
            async with _within(request.timeout):
                if isinstance(request, RankRequest):
                    tokens = await self._tokenizer.tokens_to_rank(request.query, request.document, self._pooler.n_ctx)
                else:
                    tokens = await self._tokenizer.tokens_to_embed(request.prompt, self._pooler.n_ctx)
                    pooling = request.pooling or pooling
            if isinstance(request, EmbedRequest) and (request.dimensions or 0) > most:
                name = contract.DIMENSIONS.name
                raise InvalidRequest(f"tensor '{name}': {request.dimensions}, the model has {most}", tensor=name)
        embedding = Embedding(Job(tokens, pooling), deadline, self._abort_embedding)
        self._inbox.put(lambda: embeddings.add(embedding))
        try:
            return await embedding.result()
        finally:
            embedding.cancel()

    async def tokenize(self, request: TokenizeRequest) -> tuple["array[int]", list[bytes]]:
        """The tokens, and what each stands for. Raises as `submit` does."""
        with self._place(kept=False):
            return await self._tokenizer.split(
                request.text, add_special=request.add_special, parse_special=request.parse_special
            )

    async def detokenize(self, request: DetokenizeRequest) -> bytes:
        """Raises as `submit` does."""
        with self._place(kept=False):
            return await self._tokenizer.join(request.token_ids)

    def abort(self, generation: Generation) -> None:
        """The one way out before the end; the caller gets nothing more."""
        self._n_requests -= 1
        self._inbox.put(lambda: self._generations.abort(generation))

    def _abort_embedding(self, embedding: Embedding) -> None:
        self._n_requests -= 1
        if embeddings := self._embeddings:
            self._inbox.put(lambda: embeddings.abort(embedding))

    async def close(self) -> None:
        """Fails what is still there, ends the threads. The runner and the vocabulary may be freed afterwards."""
        self._closing = True
        self._inbox.put(lambda: None)
        await asyncio.to_thread(self._thread.join)
        await self._tokenizer.close()

    @contextmanager
    def _place(self, *, kept: bool = True) -> Iterator[None]:
        """A place among the requests, kept for what follows unless the block fails. Raises QueueFull or Draining."""
        self._refuse_if_closing()
        if self._n_requests >= self._max_requests:
            self.stats.requests_refused += 1
            raise QueueFull(f"{self._n_requests} requests are running or waiting already; try again later")
        self._n_requests += 1
        try:
            yield
            self._refuse_if_closing()  # The thread may have ended while a long prompt was tokenized.
        except BaseException:
            kept = False
            raise
        finally:
            self._n_requests -= not kept

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    async def _sequences(self, request: GenerationRequest, prompt: "array[int]") -> list[Sequence]:
        room = self.n_ctx - len(prompt)
        n_new = room if request.max_tokens is None else min(room, request.max_tokens)
        sampling = request.sampling
        self._check_tokens(sampling)
        self._check_echo(request, len(prompt))
        guides: list[sequence.Guide | None] = [None] * request.n
        if request.guide:
            guides = await asyncio.wrap_future(self._tokenizer.start(self._compile, request.guide, request.n))
        echo = echo_of(request.prompt, prompt, self._vocabulary) if request.echo else None
        sequences = [
            Sequence(
                index=index,
                tokens=prompt[:],
                n_prompt=len(prompt),
                limit=len(prompt) + n_new,
                sampling=sampling,
                output=TextOutput(request.stop),
                guide=guides[index],
                mark=Mark(request.mark_end, request.mark_begin) if request.mark_end else None,
                special=not request.skip_special_tokens,
                echo=echo,
                logprobs=None if sampling.logprobs is None else LogprobOutput(),
                scores_prompt=request.echo and sampling.logprobs is not None,
            )
            for index in range(request.n)
        ]
        if sampling.dry_multiplier:
            await self._prepare(sequences)
        return sequences

    def _compile(self, guide: Guide, n: int) -> list[sequence.Guide | None]:
        """For each of `n` choices. Not on the event loop: a copy may take milliseconds too."""
        first = self._vocabulary.compile(guide)
        return [first, *(first.copy() for _ in range(n - 1))]

    async def _prepare(self, sequences: list[Sequence]) -> None:
        """Makes the samplers of a request at once: DRY looks for its breakers in the whole vocabulary, which takes up
        to seconds, nothing for a step. A request that goes no further, for whatever reason, leaves none of them."""
        work = self._tokenizer.start(self._runner.prepare, sequences)
        try:
            await asyncio.wrap_future(work)
            self._refuse_if_closing()
        except BaseException:
            # The thread may still make them, and if so is not interrupted.
            work.add_done_callback(lambda _: _free_samplers(sequences))
            raise

    def _check_echo(self, request: GenerationRequest, n_prompt: int) -> None:
        if request.echo and request.sampling.logprobs is not None:
            n = request.n * n_prompt * (1 + request.sampling.logprobs)
            if n > MAX_ECHOED_LOGPROBS:
                raise InvalidRequest(
                    f"tensor '{contract.ECHO.name}': {n} log probabilities of prompts, at most {MAX_ECHOED_LOGPROBS}",
                    tensor=contract.ECHO.name,
                )

    def _check_tokens(self, sampling: SamplingParams) -> None:
        self._vocabulary.check_tokens([t for t, _ in sampling.logit_bias], contract.LOGIT_BIAS_TOKEN_IDS.name)
        self._vocabulary.check_tokens(list(sampling.stop_token_ids), contract.STOP_TOKEN_IDS.name)

    def _deadline(self, timeout: float | None) -> float | None:
        return None if timeout is None else self._clock() + timeout

    def _hand_over(self, outbox: list[tuple[Generation | Embedding, Any]], ended: list[Generation]) -> None:
        for work, item in outbox:
            if not work.done:
                work.put(item)
                self._n_requests -= work.done
        for generation in ended:
            self._on_end(generation)

    # ---- On the engine's thread

    def _run(self) -> None:
        while not self._closing:
            try:
                self._take_in(wait=self._scheduler.idle and (not self._embeddings or self._embeddings.idle))
                self.step()
            except Exception as error:
                log.exception("a step failed")
                self._fail_all(EngineFailure(f"the engine could not compute a step: {error}"))
            self._deliver()
        self._take_in(wait=False)
        self._fail_all(Draining("the worker is shutting down"))
        self._deliver()

    def step(self) -> None:
        """What comes of it is in the outbox."""
        now = self._clock()
        self._generations.expire(now)
        if self._embeddings:
            self._embeddings.expire(now)
        self._generations.step()
        if self._embeddings:
            self._embeddings.step()  # One batch, so that streams go on.

    def _take_in(self, *, wait: bool) -> None:
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _post(self, work: Generation | Embedding, item: Delta | WorkerError | None) -> None:
        self._outbox.append((work, item))

    def _deliver(self) -> None:
        if (self._outbox or self._ended) and self._loop is not None:
            outbox, self._outbox = self._outbox, []
            ended, self._ended = self._ended, []
            self._loop.call_soon_threadsafe(self._hand_over, outbox, ended)

    def _fail_all(self, error: WorkerError) -> None:
        self._generations.fail_all(error)
        if self._embeddings:
            self._embeddings.fail_all(error)


@asynccontextmanager
async def _within(timeout: float | None) -> AsyncIterator[None]:
    """For what comes before the engine's thread knows of a request. Raises DeadlineExceeded."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError:
        raise DeadlineExceeded("the request's timeout has passed") from None


def _free_samplers(sequences: list[Sequence]) -> None:
    for one in sequences:
        one.free_sampler()
