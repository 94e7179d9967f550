"""The steps of text generation on the engine's thread: schedule, run, sample, commit, deliver.

A sequence ends with `_finish` if it has a finish reason, else with `abort` (client gone, deadline passed, engine
failure, shutdown). Both free its KV cells before the next step.
"""

import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Items
from typing import Protocol

from anyserve_worker.core.delta import Delta
from anyserve_worker.core.errors import DeadlineExceeded, EngineFailure, Interrupted, NoRoom, WorkerError
from anyserve_worker.core.logprob import TokenLogprob, TokenScore
from anyserve_worker.core.request_timer import Progress, RequestTimer
from anyserve_worker.engine.interruption import Interruption
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.engine.stats import EngineStats
from anyserve_worker.engine.tokenizer import Vocabulary
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.kv_cache import Memory
from anyserve_worker.scheduling.sequence import Sequence
from anyserve_worker.scheduling.tiers import Kind, Step, Tiers
from anyserve_worker.threads.chooser import ThreadChooser
from protos import contract

NO_SCORE = TokenScore(-1, math.nan, ())
"""The score of a prompt's first token, which nothing precedes."""


class TextRunner(Memory, Protocol):
    """Computes steps and samples tokens, on the engine's thread only. Implemented by `llama.model_runner`."""

    n_ctx: int
    n_batch: int
    n_cells: int
    n_sequences: int
    mixes: bool
    prompt_lookup: int
    n_score_rows: int
    interruptible: bool
    """Whether `interrupt` has an effect."""

    def interrupt(self, value: bool) -> None: ...
    def run(self, chunks: list[Chunk], threads: int) -> None: ...
    def sample(self, chunks: list[Chunk]) -> list[list[int]]: ...
    def prepare(self, sequences: Items[Sequence]) -> None: ...
    def clear(self) -> None: ...


class TextSteps:
    """The generations in the engine. Used on the engine's thread only."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        runner: TextRunner,
        scheduler: Tiers,
        threads: ThreadChooser,
        stats: EngineStats,
        interruption: Interruption,
        deliver: Callable[[RunningGeneration, Delta | WorkerError], None],
        on_end: Callable[[RunningGeneration], None],
    ) -> None:
        """`deliver` is called with each delta and error, `on_end` with each generation that has ended in any way."""
        self._vocabulary = vocabulary
        self._runner = runner
        self._scheduler = scheduler
        self._threads = threads
        self._stats = stats
        self._interruption = interruption
        self._deliver = deliver
        self._on_end = on_end
        self._live: set[RunningGeneration] = set()
        self._owner: dict[Sequence, RunningGeneration] = {}

    def add(self, generation: RunningGeneration) -> None:
        self._stats.last_request_ms = time.time_ns() // 1_000_000
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

    def abort(self, generation: RunningGeneration, error: WorkerError | None = None) -> None:
        if generation not in self._live:
            return
        generation.error = error
        for sequence in generation.sequences:
            if sequence in self._owner:
                self._scheduler.remove(sequence)
                self._close(sequence, failed=True)
        if error:
            self._deliver(generation, error)

    def expire(self, now: float) -> None:
        for generation in list(self._live):
            if generation.deadline is not None and now >= generation.deadline:
                self.abort(generation, DeadlineExceeded("the request's timeout has passed"))

    def fail_all(self, error: WorkerError) -> None:
        for generation in list(self._live):
            self.abort(generation, error)
        self._scheduler.cache.clear()
        self._runner.clear()

    # ---- The step

    def step(self, *, busy: bool = False) -> None:
        """Computes one batch, if there is work. `busy`: whether ordinary requests for embeddings are unanswered."""
        began = time.monotonic_ns()
        step = self._scheduler.schedule(began / 1e9, busy=busy)
        chunks = step.chunks
        if not chunks or not self._run(step):
            return
        samples = self._runner.sample(chunks)
        self._scheduler.commit(step, samples)
        for chunk, tokens in zip(chunks, samples, strict=True):
            if chunk.sequence in self._owner:  # Not if another choice of its request has just failed.
                self._append(chunk, tokens)
        if step.kind is not Kind.ORDINARY:
            self._scheduler.record(step, (time.monotonic_ns() - began) / 1e9)

    def _run(self, step: Step) -> bool:
        """Computes the chunks. Returns False if there were no KV cells for them, or the step was interrupted; the next
        attempt is prepared then."""
        chunks = step.chunks
        n_tokens = sum(chunk.n_rows for chunk in chunks)
        started, cpu_started = time.monotonic_ns(), time.thread_time()
        prompts = any(chunk.count > 1 for chunk in chunks)
        threads = self._threads.choose(n_tokens, prompts=prompts, now=started / 1e9)
        try:
            if step.kind is Kind.ALONE:
                with self._interruption.allowed():
                    self._runner.run(chunks, threads)
            else:
                self._runner.run(chunks, threads)
        except Interrupted:
            self._scheduler.roll_back(step)
            self._stats.interrupted_steps += 1
            return False
        except NoRoom:
            if not self._scheduler.make_room():
                for sequence in list(self._scheduler.running):
                    self.abort(self._owner[sequence], EngineFailure("the KV cache has no room for this sequence"))
            return False
        now = time.monotonic_ns()
        if prompts and (step.kind is Kind.ORDINARY or step.sets_pace):
            self._scheduler.pace.record(n_tokens, (now - started) / 1e9)
        self._threads.record((now - started) / 1e9, now / 1e9, time.thread_time() - cpu_started)
        self._stats.steps.add(now - started)
        self._stats.step_seconds.add((now - started) / 1e9)
        self._stats.step_tokens.add(n_tokens)
        self._stats.step_sequences.add(len(chunks))
        if step.kind is not Kind.ORDINARY:
            self._stats.background_tokens += step.n_background_tokens
            self._stats.background_steps += step.kind is not Kind.BESIDE
        for chunk in chunks:
            generation = self._owner[chunk.sequence]
            if not generation.started:
                generation.started_ns = started
                if chunk.sequence.timer:
                    chunk.sequence.timer.start(started)
                self._stats.queue.add(started - generation.submitted_ns)
                self._stats.queue_seconds.add((started - generation.submitted_ns) / 1e9)
                self._stats.prompt_tokens += chunk.sequence.n_prompt
                self._stats.cached_tokens += chunk.sequence.n_cached
        return True

    def _append(self, chunk: Chunk, tokens: list[int]) -> None:
        """Appends the tokens that were sampled (several after a draft), and delivers the text that they complete."""
        sequence = chunk.sequence
        if sequence.error:
            self.abort(self._owner[sequence], sequence.error)
            return
        if sequence.timer:
            self._end_step(sequence, sequence.timer, samples=bool(tokens))
        echoed = self._echo(sequence) if sequence.echo and tokens else None
        text, reason = self._extend(sequence, tokens)
        if chunk.draft:
            self._stats.drafted_tokens += len(chunk.draft)
            self._stats.accepted_tokens += len(tokens) - 1
        if text or reason or echoed:
            ended = reason is not None and not sequence.output.stopped
            logprobs = sequence.logprobs.pop(len(text), all=ended) if sequence.logprobs else ()
            if echoed:
                text, logprobs = echoed[0] + text, echoed[1] + logprobs
            self._emit(sequence, text, reason, logprobs)
        if reason:
            self._finish(sequence)

    def _end_step(self, sequence: Sequence, timer: RequestTimer, *, samples: bool) -> None:
        """Measures a step, and delivers the progress of the prompt, which the first choice computes."""
        now = time.monotonic_ns()
        timer.end_step(now, samples=samples)
        if sequence.index == 0:
            n_computed = min(sequence.n_computed, sequence.n_prompt)
            if progress := timer.progress(now, max(0, sequence.n_cached), n_computed):
                self._deliver(self._owner[sequence], self._delta(sequence, "", None, progress=progress))

    def _extend(self, sequence: Sequence, tokens: list[int]) -> tuple[str, str | None]:
        """Appends `tokens` up to the sequence's end. Returns the text that they complete, and the finish reason."""
        text, reason = "", None
        output, vocabulary = sequence.output, self._vocabulary
        for token in tokens:
            if len(sequence.tokens) >= sequence.limit:  # max_tokens is 0: only the prompt's scores were requested.
                reason = contract.FINISH_LENGTH
                break
            sequence.tokens.append(token)
            self._stats.generated_tokens += 1
            if vocabulary.is_end(token) or token in sequence.sampling.stop_token_ids:
                reason = contract.FINISH_STOP
                break
            piece = vocabulary.written(token) if sequence.special else vocabulary.piece(token)
            if sequence.logprobs or sequence.reasoning:
                self._annotate(sequence, token, len(text) + output.n_held)
            text += output.push(piece)
            if output.stopped:
                reason = contract.FINISH_STOP
            elif len(sequence.tokens) >= sequence.limit:
                reason = contract.FINISH_LENGTH
            if reason:
                break
        if sequence.guide_ended and sequence.n_generated:
            reason = contract.FINISH_STOP
        return self._flush(sequence, text, reason) if reason else (text, None)

    def _annotate(self, sequence: Sequence, token: int, n_held: int) -> None:
        """Adds the token just appended to the requested log probabilities and count of reasoning tokens."""
        if sequence.logprobs:
            sequence.logprobs.push(self._token_logprob(sequence.scored.popleft()), n_held)
        if sequence.reasoning:
            sequence.reasoning.push(self._vocabulary.written(token), sequence.n_generated)

    def _flush(self, sequence: Sequence, text: str, reason: str) -> tuple[str, str]:
        """Adds the text held back, at the sequence's end. It may complete a stop string, which is then the reason."""
        text += sequence.output.flush()
        return text, contract.FINISH_STOP if sequence.output.stopped else reason

    def _echo(self, sequence: Sequence) -> tuple[str, tuple[TokenLogprob, ...]]:
        """Returns the echoed prompt, with the log probabilities of its tokens if they were requested."""
        echo, sequence.echo = sequence.echo, None
        assert echo is not None
        if not sequence.scores_prompt:
            return echo.text, ()
        scores = [NO_SCORE, *(sequence.scored.popleft() for _ in range(sequence.n_prompt - 1))]
        scored_pieces = zip(scores[sequence.n_prompt - len(echo.pieces) :], echo.pieces, strict=True)
        return echo.text, tuple(self._token_logprob(score, piece) for score, piece in scored_pieces)

    def _token_logprob(self, score: TokenScore, piece: bytes | None = None) -> TokenLogprob:
        """Converts a score for the client. `piece`: the token's bytes, if they differ from the vocabulary's."""
        written = self._vocabulary.written
        top = tuple((written(token), logprob) for token, logprob in score.top)
        return TokenLogprob(written(score.token) if piece is None else piece, score.logprob, top)

    def _emit(self, sequence: Sequence, text: str, reason: str | None, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        generation = self._owner[sequence]
        if not generation.first_ns:
            self._record_first(generation)
        if reason:
            generation.finish_reasons.append(reason)
        delta = self._delta(sequence, text, reason, logprobs, begins=not sequence.has_output)
        sequence.has_output = True
        self._deliver(generation, delta)

    def _delta(
        self,
        sequence: Sequence,
        text: str,
        reason: str | None,
        logprobs: tuple[TokenLogprob, ...] = (),
        *,
        begins: bool = False,
        progress: tuple[Progress, ...] = (),
    ) -> Delta:
        return Delta(
            index=sequence.index,
            text=text,
            finish_reason=reason,
            completion_tokens=sequence.n_generated,
            prompt_tokens=sequence.n_prompt,
            cached_tokens=max(0, self._owner[sequence].sequences[0].n_cached),
            logprobs=logprobs,
            marked_tokens=sequence.reasoning.count(sequence.n_generated) if sequence.reasoning else None,
            begins=begins,
            times=sequence.timer.times if sequence.timer else None,
            progress=progress,
        )

    def _record_first(self, generation: RunningGeneration) -> None:
        generation.first_ns = time.monotonic_ns()
        if generation.started:
            self._stats.prefill_seconds.add((generation.first_ns - generation.started_ns) / 1e9)

    # ---- The end of a sequence

    def _finish(self, sequence: Sequence) -> None:
        self._scheduler.remove(sequence)
        self._close(sequence)

    def _close(self, sequence: Sequence, *, failed: bool = False) -> None:
        """Drops a sequence that has left the scheduler. A request ends with its last sequence."""
        sequence.sampler = None
        generation = self._owner.pop(sequence)
        if generation in self._live and not any(other in self._owner for other in generation.sequences):
            self._live.remove(generation)
            counter = self._stats.failure if failed else self._stats.success
            generation.ended_ns = time.monotonic_ns()
            counter.add(generation.ended_ns - generation.submitted_ns)
            self._stats.request_seconds.add((generation.ended_ns - generation.submitted_ns) / 1e9)
            self._stats.outcomes[generation.outcome] += 1
            self._on_end(generation)
