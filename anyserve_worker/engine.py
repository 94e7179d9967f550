"""The engine: one thread owns the model and takes one step after the other.

Requests and cancellations come in through an inbox; what a step yields goes out through mailboxes on the event loop,
with one wake-up of the loop a step. Nothing that a client does can block the thread.

Behind each step of generation comes one batch of embeddings, if any wait (`embeddings.py`).

A sequence ends in one of two ways: `_finish`, when it has its finish_reason, or `_abort`, for everything else (client
gone, deadline passed, engine failure, shutdown). Both free its cells before the next step.
"""

import asyncio
import logging
import math
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Items
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from anyserve_worker.delta import Delta, TokenLogprob
from anyserve_worker.echo import echo_of
from anyserve_worker.embedder import Job, Pooler
from anyserve_worker.embeddings import Embedding, Embeddings
from anyserve_worker.errors import (
    DeadlineExceeded,
    Draining,
    EngineFailure,
    InvalidRequest,
    NoRoom,
    QueueFull,
    WorkerError,
)
from anyserve_worker.generation import Generation
from anyserve_worker.kv_cache import KVCache, Memory
from anyserve_worker.logprobs import LogprobOutput
from anyserve_worker.mark import Mark
from anyserve_worker.options import ModelOptions
from anyserve_worker.output import TextOutput
from anyserve_worker.request import GenerationRequest, SamplingParams
from anyserve_worker.sampling import Score
from anyserve_worker.scheduler import Chunk, Scheduler
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
NO_SCORE = Score(-1, math.nan, ())
"""Of a prompt's first token, which nothing precedes."""


class Runner(Memory, Protocol):
    """What the engine asks of `model_runner.ModelRunner`, from its own thread only."""

    n_ctx: int
    n_batch: int
    n_cells: int
    n_sequences: int
    mixes: bool
    prompt_lookup: int
    n_score_rows: int

    def run(self, chunks: list[Chunk], threads: int) -> None: ...
    def sample(self, chunks: list[Chunk]) -> list[list[int]]: ...
    def prepare(self, sequences: Items[Sequence]) -> None: ...
    def clear(self) -> None: ...


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
        self._cache = KVCache(runner, runner.n_cells, runner.n_sequences, options.prefix_cache)
        self._scheduler = Scheduler(
            self._cache,
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
        self._live: set[Generation] = set()
        self._owner: dict[Sequence, Generation] = {}
        self._pooler = pooler
        self._embeddings: Embeddings | None = None
        if pooler:
            self._embeddings = Embeddings(
                pooler,
                pooler_threads or ThreadChooser((1,), (1,)),
                self.stats,
                lambda embedding, error: self._outbox.append((embedding, error)),
            )
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
        return self._cache.n_free_cells

    async def submit(self, request: GenerationRequest, origin: Origin = NOBODY) -> Generation:
        """Raises QueueFull, InvalidRequest, ContextLengthExceeded or Draining. The caller iterates, or cancels."""
        with self._place():
            prompt = await self._tokenizer.tokens(request.prompt, request.suffix)
            sequences = await self._sequences(request, prompt)
        generation = Generation(sequences, self._deadline(request.timeout), self.abort, origin)
        self._inbox.put(lambda: self._start(generation))
        return generation

    async def embed(self, request: EmbedRequest | RankRequest) -> Job:
        """When it is done. Raises as `submit` does, and for what goes wrong later. To cancel it drops the request."""
        assert self._pooler is not None
        assert self._embeddings is not None
        embeddings, pooling, most = self._embeddings, self._pooler.pooling, self._pooler.n_embedding
        with self._place():
            if isinstance(request, RankRequest):
                tokens = await self._tokenizer.tokens_to_rank(request.query, request.document, self._pooler.n_ctx)
            else:
                tokens = await self._tokenizer.tokens_to_embed(request.prompt, self._pooler.n_ctx)
                pooling = request.pooling or pooling
                if (request.dimensions or 0) > most:
                    name = contract.DIMENSIONS.name
                    raise InvalidRequest(f"tensor '{name}': {request.dimensions}, the model has {most}", tensor=name)
        embedding = Embedding(Job(tokens, pooling), self._deadline(request.timeout), self._abort_embedding)
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
        self._inbox.put(lambda: self._abort(generation, None))

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
        guide = None
        if request.guide:
            guide = await asyncio.wrap_future(self._tokenizer.start(self._vocabulary.compile, request.guide))
        echo = echo_of(request.prompt, prompt, self._vocabulary) if request.echo else None
        sequences = [
            Sequence(
                index=index,
                tokens=prompt[:],
                n_prompt=len(prompt),
                limit=len(prompt) + n_new,
                sampling=sampling,
                output=TextOutput(request.stop),
                guide=guide and guide.copy(),
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
                if self._embeddings:
                    self._embeddings.step()  # One batch, so that streams go on.
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
        self._scheduler.commit(chunks, sampled)
        for chunk, tokens in zip(chunks, sampled, strict=True):
            if chunk.sequence in self._owner:  # It is not if another choice of its request has failed just now.
                self._append(chunk, tokens)

    def _take_in(self, *, wait: bool) -> None:
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except Empty:
            return

    def _computed(self, chunks: list[Chunk]) -> bool:
        """Runs the chunks. False if there was no place for them: then some was made, and the next step tries again."""
        n_tokens = sum(chunk.n_rows for chunk in chunks)
        started, cpu_started = time.monotonic_ns(), time.thread_time()
        threads = self._threads.choose(n_tokens, prompts=any(chunk.count > 1 for chunk in chunks), now=started / 1e9)
        try:
            self._runner.run(chunks, threads)
        except NoRoom:
            if not self._scheduler.relieve():
                for sequence in list(self._scheduler.running):
                    self._abort(self._owner[sequence], EngineFailure("the KV cache has no place for this sequence"))
            return False
        now = time.monotonic_ns()
        self._threads.record((now - started) / 1e9, now / 1e9, time.thread_time() - cpu_started)
        self.stats.steps.add(now - started)
        self.stats.step_seconds.add((now - started) / 1e9)
        self.stats.step_tokens.add(n_tokens)
        self.stats.step_sequences.add(len(chunks))
        for chunk in chunks:
            generation = self._owner[chunk.sequence]
            if not generation.started:
                generation.started_ns = started
                self.stats.queue.add(started - generation.submitted_ns)
                self.stats.queue_seconds.add((started - generation.submitted_ns) / 1e9)
                self.stats.prompt_tokens += chunk.sequence.n_prompt
                self.stats.cached_tokens += chunk.sequence.n_cached
        return True

    def _append(self, chunk: Chunk, tokens: list[int]) -> None:
        """What was sampled for the chunk, up to the sequence's end: there may be more, of a draft."""
        sequence, text, reason = chunk.sequence, "", None
        output, vocabulary, logprobs = sequence.output, self._vocabulary, sequence.logprobs
        if sequence.error:
            self._abort(self._owner[sequence], sequence.error)
            return
        echoed = self._echo(sequence) if sequence.echo and tokens else None
        for token in tokens:
            if len(sequence.tokens) >= sequence.limit:  # Nothing was to be generated, the prompt had to be read.
                reason = contract.FINISH_LENGTH
                break
            sequence.tokens.append(token)
            self.stats.generated_tokens += 1
            if vocabulary.is_end(token) or token in sequence.sampling.stop_token_ids:
                reason = contract.FINISH_STOP
            else:
                if logprobs:
                    logprobs.push(self._told(sequence.scored.popleft()), len(text) + output.n_held)
                piece = vocabulary.written(token) if sequence.special else vocabulary.piece(token)
                if sequence.mark:
                    sequence.mark.push(piece, sequence.n_generated)
                text += output.push(piece)
                if not output.stopped and len(sequence.tokens) >= sequence.limit:
                    reason = contract.FINISH_LENGTH
            if reason or output.stopped:
                break
        if chunk.draft:
            self.stats.drafted_tokens += len(chunk.draft)
            self.stats.accepted_tokens += len(tokens) - 1
        if sequence.guide_ended and sequence.n_generated:
            reason = contract.FINISH_STOP
        if reason:
            text += output.flush()
        if output.stopped:
            reason = contract.FINISH_STOP
        if text or reason or echoed:
            told = logprobs.pop(len(text), all=bool(reason) and not output.stopped) if logprobs else ()
            if echoed:
                text, told = echoed[0] + text, echoed[1] + told
            self._emit(sequence, text, reason, told)
        if reason:
            self._finish(sequence)

    def _echo(self, sequence: Sequence) -> tuple[str, tuple[TokenLogprob, ...]]:
        """What the answer begins with, with the log probabilities of the prompt's tokens if they are wanted."""
        echo, sequence.echo = sequence.echo, None
        assert echo is not None
        if not sequence.scores_prompt:
            return echo.text, ()
        scores = [NO_SCORE, *(sequence.scored.popleft() for _ in range(sequence.n_prompt - 1))]
        told = zip(scores[sequence.n_prompt - len(echo.pieces) :], echo.pieces, strict=True)
        return echo.text, tuple(self._told(score, piece) for score, piece in told)

    def _told(self, score: Score, piece: bytes | None = None) -> TokenLogprob:
        """As the wire tells it. `piece`, if the token is not written as it always is."""
        written = self._vocabulary.written
        top = tuple((written(token), logprob) for token, logprob in score.top)
        return TokenLogprob(written(score.token) if piece is None else piece, score.logprob, top)

    def _emit(self, sequence: Sequence, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        generation = self._owner[sequence]
        if not generation.first_ns:
            self._take_first(generation)
        if reason:
            generation.reasons.append(reason)
        delta = Delta(
            index=sequence.index,
            text=text,
            finish_reason=reason,
            completion_tokens=sequence.n_generated,
            prompt_tokens=sequence.n_prompt,
            cached_tokens=max(0, generation.sequences[0].n_cached),
            logprobs=logprobs,
            marked_tokens=sequence.mark.count(sequence.n_generated) if sequence.mark else None,
        )
        self._outbox.append((generation, delta))

    def _take_first(self, generation: Generation) -> None:
        generation.first_ns = time.monotonic_ns()
        if generation.started:
            self.stats.prefill_seconds.add((generation.first_ns - generation.started_ns) / 1e9)

    def _deliver(self) -> None:
        if (self._outbox or self._ended) and self._loop is not None:
            outbox, self._outbox = self._outbox, []
            ended, self._ended = self._ended, []
            self._loop.call_soon_threadsafe(self._hand_over, outbox, ended)

    # ---- Beginning and end of a request

    def _start(self, generation: Generation) -> None:
        self.stats.last_request_ms = time.time_ns() // 1_000_000
        self._live.add(generation)
        for sequence in generation.sequences:
            self._owner[sequence] = generation
        for sequence in generation.sequences:
            if sequence.limit > sequence.n_prompt or sequence.wants_scores:
                self._scheduler.add(sequence)
            else:
                text, logprobs = self._echo(sequence) if sequence.echo else ("", ())
                self._emit(sequence, text, contract.FINISH_LENGTH, logprobs)
                self._close(sequence)

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._close(sequence)

    def _abort(self, generation: Generation, error: WorkerError | None) -> None:
        if generation not in self._live:
            return
        generation.error = error
        for sequence in generation.sequences:
            if sequence in self._owner:
                self._scheduler.remove(sequence)
                self._close(sequence, failed=True)
        if error:
            self._outbox.append((generation, error))

    def _close(self, sequence: Sequence, *, failed: bool = False) -> None:
        """The sequence is out of the scheduler. With the last of its request, the request is over."""
        _free_samplers([sequence])
        generation = self._owner.pop(sequence)
        if generation in self._live and not any(other in self._owner for other in generation.sequences):
            self._live.remove(generation)
            counter = self.stats.failure if failed else self.stats.success
            generation.ended_ns = time.monotonic_ns()
            counter.add(generation.ended_ns - generation.submitted_ns)
            self.stats.request_seconds.add((generation.ended_ns - generation.submitted_ns) / 1e9)
            self.stats.outcomes[generation.outcome] += 1
            self._ended.append(generation)

    def _expire(self) -> None:
        now = self._clock()
        for generation in list(self._live):
            if generation.deadline is not None and now >= generation.deadline:
                self._abort(generation, DeadlineExceeded("the request's timeout has passed"))
        if self._embeddings:
            self._embeddings.expire(now)

    def _fail_all(self, error: WorkerError) -> None:
        for generation in list(self._live):
            self._abort(generation, error)
        if self._embeddings:
            self._embeddings.fail_all(error)
        self._cache.clear()
        self._runner.clear()


def _free_samplers(sequences: Items[Sequence]) -> None:
    for sequence in sequences:
        if sequence.sampler:
            sequence.sampler.free()
            sequence.sampler = None
