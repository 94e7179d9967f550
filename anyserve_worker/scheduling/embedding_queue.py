"""Schedules prompts whose vector or score is requested, in batches. PURE.

A batch takes as many jobs as fit its tokens, sequences and KV cells. They are ordered by size and by turn, like prompts
of generations (`PromptLine`): a short prompt doesn't wait for long ones, nor a caller with one prompt for another
caller's thousands. Every fourth batch begins with the first in line, so that no job starves.

Where attention is causal, a prompt may be read in chunks over several batches, and each batch is filled completely.
Otherwise (`whole`) every token attends to all others, so a prompt is in one batch. A prompt longer than a batch has a
batch of its own.

Background jobs are in batches of their own. They yield sequences and cells to ordinary jobs: a partly read background
job begins again then.

The runner returns a vector per token, which are pooled here. For a reranker it returns the score, which is valid after
the prompt's last token.
"""

from array import array
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anyserve_worker.core.options import SHORT_PROMPT
from anyserve_worker.scheduling.prompt_line import PromptLine
from protos import contract

FIRST_EVERY = 4
"""One in this many batches begins with the first in line."""

Vector = NDArray[np.floating[Any]]


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """`eq=False`: jobs are compared by identity, not by their tokens."""

    tokens: "array[int]"
    """From 1 to `VectorRunner.n_ctx` tokens."""
    pooling: str
    """One of contract.POOLINGS. Unused for a reranker's scores."""
    caller: str = ""
    """The caller, for fair shares of the worker."""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""
    seq_id: int = -1
    """llama.cpp's sequence while the prompt is partly read; -1 before and after."""
    n_computed: int = 0
    vector: Vector | None = None
    """Pooled from the tokens so far; for the mean, their sum. None before the first batch."""

    @property
    def background(self) -> bool:
        """Whether the job is background work."""
        return self.priority >= contract.BACKGROUND_PRIORITY

    @property
    def done(self) -> bool:
        return self.n_computed == len(self.tokens)


@dataclass(frozen=True, slots=True)
class EmbeddingPart:
    """A batch computes `job.tokens[start : start + count]`, in llama.cpp's sequence `job.seq_id`."""

    job: EmbeddingJob
    start: int
    count: int

    @property
    def tokens(self) -> "array[int]":
        return self.job.tokens[self.start : self.start + self.count]


class VectorRunner(Protocol):
    """Computes vectors and scores, on the engine's thread only. Implemented by `llama.embedding_runner`."""

    n_ctx: int
    """Maximum tokens of a prompt."""
    n_batch: int
    """Maximum tokens of a batch, unless a longer prompt has to be whole."""
    n_cells: int
    """Maximum tokens of all partly read prompts together."""
    n_sequences: int
    n_embedding: int
    """Elements of a vector."""
    whole: bool
    """A prompt can't be read in chunks."""
    pooling: str
    """The default of the request's `pooling`."""
    ranks: bool
    """`run` returns one row of scores per part, not one row per token."""

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[Vector]:
        """Returns the rows of each part, valid until the next call. Raises RuntimeError."""

    def forget(self, seq_id: int) -> None: ...
    def clear(self) -> None: ...


@dataclass(slots=True)
class EmbeddingQueue:
    runner: VectorRunner
    _lines: tuple[PromptLine[EmbeddingJob], PromptLine[EmbeddingJob]] = field(
        init=False, default_factory=lambda: (PromptLine(), PromptLine())
    )
    """The jobs that are not done: ordinary ones, and background jobs."""
    _begun: list[EmbeddingJob] = field(init=False, default_factory=list)
    """Jobs with a sequence id: partly read, or in the current batch."""
    _free_ids: list[int] = field(init=False)
    _n_batches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free_ids = list(range(self.runner.n_sequences))

    @property
    def idle(self) -> bool:
        return self.is_idle(background=False) and self.is_idle(background=True)

    def is_idle(self, *, background: bool) -> bool:
        """Returns whether there are no ordinary jobs, or no background jobs."""
        return not self._lines[background] and not any(job.background == background for job in self._begun)

    @property
    def n_begun(self) -> int:
        """Jobs that are partly read or in the current batch."""
        return len(self._begun)

    def add(self, job: EmbeddingJob) -> None:
        self._lines[job.background].add(
            job, max(SHORT_PROMPT, len(job.tokens))
        )  # Short prompts are ordered by arrival.

    def remove(self, job: EmbeddingJob) -> None:
        """Removes a job in any state."""
        self._lines[job.background].leave(job)
        self._release(job)

    def schedule(self, max_tokens: int | None = None, *, background: bool = False) -> list[EmbeddingPart]:
        """Returns the next batch of ordinary or background jobs, of at most `max_tokens` tokens if possible. Empty if
        there are no such jobs."""
        self._n_batches += 1
        parts: list[EmbeddingPart] = []
        room = self.runner.n_batch if max_tokens is None else min(self.runner.n_batch, max_tokens)
        cells = self.runner.n_cells - sum(len(job.tokens) for job in self._begun)
        blocked = False
        for job in self._in_order(background):
            length = len(job.tokens)
            count = length - job.n_computed
            if count > room:
                if self.runner.whole and parts:
                    break  # No prompt overtakes one that needs room.
                count = count if self.runner.whole else room
            if count <= 0:
                break
            if job.seq_id < 0:
                while not background and (length > cells or not self._free_ids) and (freed := self._restart_last()):
                    cells += freed
                blocked = blocked or length > cells or not self._free_ids
                if blocked:
                    continue  # Partly read jobs continue, which frees room.
                self._begin(job)
                cells -= length
            parts.append(EmbeddingPart(job, job.n_computed, count))
            room -= count
        return parts

    def _in_order(self, background: bool) -> list[EmbeddingJob]:
        line = self._lines[background]
        begun = [job for job in self._begun if job.background == background]
        n_ids = self.runner.n_sequences - len(begun) if not background else len(self._free_ids)
        jobs = sorted([*begun, *line.by_size(n_ids)], key=line.rank)  # Stable.
        first = line.first()
        if first is None or self._n_batches % FIRST_EVERY:
            return jobs
        return [first, *(job for job in jobs if job is not first)]

    def _restart_last(self) -> int:
        """Makes the background job that began last wait again. Returns its cells; 0 if there is none."""
        for job in reversed(self._begun):
            if job.background:
                self._release(job)
                job.n_computed, job.vector = 0, None
                self._lines[True].put_back(job, len(job.tokens))
                return len(job.tokens)
        return 0

    def _begin(self, job: EmbeddingJob) -> None:
        self._lines[job.background].start(job, len(job.tokens))
        self._begun.append(job)
        job.seq_id = self._free_ids.pop()

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[EmbeddingJob]:
        """Computes a batch. Removes and returns the jobs that it completes. Raises RuntimeError."""
        done = []
        for part, rows in zip(parts, self.runner.run(parts, threads), strict=True):
            job = part.job
            job.vector = np.array(rows[0]) if self.runner.ranks else _pooled(job, rows)
            job.n_computed += part.count
            if job.done:
                self.remove(job)
                done.append(job)
        return done

    def clear(self) -> None:
        """Drops all that was read, after a failure. The caller has to remove the jobs."""
        self.runner.clear()

    def _release(self, job: EmbeddingJob) -> None:
        if job.seq_id >= 0:
            self._begun.remove(job)
            self.runner.forget(job.seq_id)
            self._free_ids.append(job.seq_id)
            job.seq_id = -1


def _pooled(job: EmbeddingJob, rows: Vector) -> Vector:
    """Returns the job's vector after the rows of its next tokens."""
    if job.pooling == contract.POOLING_MEAN:
        total: Vector = np.zeros(rows.shape[1]) if job.vector is None else job.vector
        total += rows.sum(axis=0, dtype=np.float64)
        return total
    if job.pooling == contract.POOLING_LAST:
        return np.array(rows[-1])
    return np.array(rows[0]) if job.vector is None else job.vector


def finished_vector(job: EmbeddingJob, *, normalize: bool, dimensions: int | None) -> Vector:
    """Returns a completed job's vector: its first `dimensions` elements (Matryoshka), optionally scaled to length 1."""
    assert job.done
    assert job.vector is not None
    vector: Vector = job.vector[:dimensions].astype(np.float64)
    if job.pooling == contract.POOLING_MEAN:
        vector /= len(job.tokens)
    length = float(np.linalg.norm(vector))
    if normalize and length > 0:
        vector /= length
    return vector
