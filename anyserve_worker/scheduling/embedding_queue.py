"""Prompts that wait for their vector or score, and what the next batch computes of them. PURE.

A batch takes as many jobs as fit: tokens, sequences, and KV cells where the model has them. They go by size and by
turn, as the prompts of texts do (`PromptLine`): a short one doesn't wait for long ones, nor a caller with one for
another caller's thousands, and every fourth batch begins with the first in line, so that no job starves.

Where attention is causal, a prompt may be read in chunks, batch by batch, and the batch is full to the last token.
Elsewhere (`whole`) every token sees all others, so each prompt is in one batch, and one that is longer than a batch
should be is alone in its own.

The runner gives a vector for each token, and they are pooled here; or, of a reranker, the score, which is right with a
prompt's last token.
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
"""Batches from one that begins with the first in line to the next."""

Vector = NDArray[np.floating[Any]]


@dataclass(slots=True, eq=False)
class EmbeddingJob:
    """`eq=False`: a job is itself, whatever its tokens are."""

    tokens: "array[int]"
    """At least one, at most the runner's n_ctx."""
    pooling: str
    """One of contract.POOLINGS. A reranker's scores need none."""
    caller: str = ""
    """The caller that shares the worker with others."""
    priority: int = 0
    """Waiting prompts with a smaller number are read first."""
    seq_id: int = -1
    """While it is partly read."""
    n_computed: int = 0
    vector: Vector | None = None
    """Pooled from the tokens until now; the sum for the mean."""

    @property
    def done(self) -> bool:
        return self.n_computed == len(self.tokens)


@dataclass(frozen=True, slots=True)
class EmbeddingPart:
    """`job.tokens[start : start + count]` are computed in this batch, in llama sequence `job.seq_id`."""

    job: EmbeddingJob
    start: int
    count: int

    @property
    def tokens(self) -> "array[int]":
        return self.job.tokens[self.start : self.start + self.count]


class VectorRunner(Protocol):
    """Computes vectors and scores, on the engine's thread only. Implemented by `llama.embedding_runner`."""

    n_ctx: int
    """Most tokens of a prompt."""
    n_batch: int
    """Tokens of a batch, unless one prompt that has to be whole is longer."""
    n_cells: int
    """Tokens of all prompts that are read at a time."""
    n_sequences: int
    n_embedding: int
    """Elements of a vector."""
    whole: bool
    pooling: str
    """If the request does not say."""
    ranks: bool
    """`run` gives one row of scores for each part, not one for each token."""

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[Vector]:
        """Rows of each part, valid until the next call. Raises RuntimeError."""

    def forget(self, seq_id: int) -> None: ...
    def clear(self) -> None: ...


@dataclass(slots=True)
class EmbeddingQueue:
    runner: VectorRunner
    _line: PromptLine[EmbeddingJob] = field(init=False, default_factory=PromptLine)
    _begun: list[EmbeddingJob] = field(init=False, default_factory=list)
    """Jobs that have a sequence id: they are partly read, or in the batch that is computed."""
    _free_ids: list[int] = field(init=False)
    _n_batches: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self._free_ids = list(range(self.runner.n_sequences))

    @property
    def idle(self) -> bool:
        return not self._line and not self._begun

    def add(self, job: EmbeddingJob) -> None:
        self._line.add(job, max(SHORT_PROMPT, len(job.tokens)))  # Short ones go in the order of arrival.

    def remove(self, job: EmbeddingJob) -> None:
        """Unwanted, in whatever state it is."""
        self._line.leave(job)
        self._release(job)

    def schedule(self, max_tokens: int | None = None) -> list[EmbeddingPart]:
        """The next batch, of at most `max_tokens` tokens if possible. Empty if there is nothing to do."""
        self._n_batches += 1
        parts: list[EmbeddingPart] = []
        room = self.runner.n_batch if max_tokens is None else min(self.runner.n_batch, max_tokens)
        cells = self.runner.n_cells - sum(len(job.tokens) for job in self._begun)
        blocked = False
        for job in self._in_order():
            length = len(job.tokens)
            count = length - job.n_computed
            if count > room:
                if self.runner.whole and parts:
                    break  # Nothing overtakes a prompt that needs room.
                count = count if self.runner.whole else room
            if count <= 0:
                break
            if job.seq_id < 0:
                blocked = blocked or length > cells or not self._free_ids
                if blocked:
                    continue  # Those that are begun go on, and room becomes free.
                self._begin(job)
                cells -= length
            parts.append(EmbeddingPart(job, job.n_computed, count))
            room -= count
        return parts

    def _in_order(self) -> list[EmbeddingJob]:
        jobs = sorted([*self._begun, *self._line.by_size(len(self._free_ids))], key=self._line.rank)  # Stable.
        first = self._line.first()
        if first is None or self._n_batches % FIRST_EVERY:
            return jobs
        return [first, *(job for job in jobs if job is not first)]

    def _begin(self, job: EmbeddingJob) -> None:
        self._line.start(job, len(job.tokens))
        self._begun.append(job)
        job.seq_id = self._free_ids.pop()

    def run(self, parts: list[EmbeddingPart], threads: int) -> list[EmbeddingJob]:
        """Computes a batch. Returns the jobs that are done by it, out of the queue; raises as the runner does."""
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
        """After a failure: nothing of what was read is left. The jobs are for the caller to remove."""
        self.runner.clear()

    def _release(self, job: EmbeddingJob) -> None:
        if job.seq_id >= 0:
            self._begun.remove(job)
            self.runner.forget(job.seq_id)
            self._free_ids.append(job.seq_id)
            job.seq_id = -1


def _pooled(job: EmbeddingJob, rows: Vector) -> Vector:
    """With the rows of its next tokens."""
    if job.pooling == contract.POOLING_MEAN:
        total: Vector = np.zeros(rows.shape[1]) if job.vector is None else job.vector
        total += rows.sum(axis=0, dtype=np.float64)
        return total
    if job.pooling == contract.POOLING_LAST:
        return np.array(rows[-1])
    return np.array(rows[0]) if job.vector is None else job.vector


def finished_vector(job: EmbeddingJob, *, normalize: bool, dimensions: int | None) -> Vector:
    """The vector of a job that is done, cut to the first `dimensions` (Matryoshka); `normalize`: of length 1."""
    assert job.done
    assert job.vector is not None
    vector: Vector = job.vector[:dimensions].astype(np.float64)
    if job.pooling == contract.POOLING_MEAN:
        vector /= len(job.tokens)
    length = float(np.linalg.norm(vector))
    if normalize and length > 0:
        vector /= length
    return vector
