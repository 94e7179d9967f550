"""Batches of prompts, fairness between prompts and callers, and the pooling of token vectors."""

from array import array
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, EmbeddingQueue, finished_vector
from protos import contract
from tests.anyserve_worker.fakes import FakeVectorRunner

MEAN, CLS, LAST = contract.POOLINGS


def job(*tokens: int, pooling: str = MEAN, caller: str = "", priority: int = 0) -> EmbeddingJob:
    return EmbeddingJob(array("i", tokens), pooling, caller, priority)


def run_all(queue: EmbeddingQueue, jobs: Sequence[EmbeddingJob]) -> list[EmbeddingJob]:
    """Adds the jobs and runs them all; returns them in the order in which they finished."""
    for item in jobs:
        queue.add(item)
    finished: list[EmbeddingJob] = []
    while not queue.idle:
        finished += queue.run(queue.schedule(), 1)
    return finished


def vector(finished: EmbeddingJob) -> list[float]:
    return [float(element) for element in finished_vector(finished, normalize=False, dimensions=None)]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    poolings=st.lists(st.sampled_from(contract.POOLINGS), min_size=12, max_size=12),
    n_batch=st.integers(1, 50),
    n_cells=st.integers(50, 90),
    n_sequences=st.integers(1, 5),
    whole=st.booleans(),
)
def test_every_prompt_gets_its_own_vector_in_order(
    lengths: list[int], poolings: list[str], n_batch: int, n_cells: int, n_sequences: int, whole: bool
) -> None:
    vector_runner = FakeVectorRunner(n_batch=n_batch, n_cells=n_cells, n_sequences=n_sequences, whole=whole)
    jobs = [job(*range(10 * i, 10 * i + n), pooling=poolings[i]) for i, n in enumerate(lengths)]
    assert run_all(EmbeddingQueue(vector_runner), jobs) == jobs, "short prompts finish in order"
    assert not vector_runner.sequences
    for item in jobs:
        first, last = float(item.tokens[0]), float(item.tokens[-1])
        expected = {
            MEAN: [(first + last) / 2, (len(item.tokens) - 1) / 2, 1],
            CLS: [first, 0, 1],
            LAST: [last, len(item.tokens) - 1, 1],
        }
        assert vector(item) == pytest.approx(expected[item.pooling])


def test_short_prompts_share_a_batch() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, n_sequences=4)
    run_all(EmbeddingQueue(vector_runner), [job(*range(3)) for _ in range(6)])
    assert vector_runner.batches == [[3, 3, 3, 3], [3, 3]]


def test_a_long_prompt_is_read_in_chunks_and_the_next_one_fills_the_last_batch() -> None:
    vector_runner = FakeVectorRunner(n_batch=16)
    run_all(EmbeddingQueue(vector_runner), [job(*range(40)), job(*range(10))])
    assert vector_runner.batches == [[16], [16], [8, 8], [2]]


def test_prompts_are_not_split_if_every_token_attends_to_all_others() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, whole=True)
    run_all(EmbeddingQueue(vector_runner), [job(*range(n)) for n in (10, 10, 40, 5, 5)])
    assert vector_runner.batches == [[10], [10], [40], [5, 5]]


def test_a_prompt_waits_for_cells_that_running_ones_will_need() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, n_cells=20)
    run_all(EmbeddingQueue(vector_runner), [job(*range(17)), job(*range(5)), job(*range(3))])
    assert vector_runner.batches == [[16], [1], [5, 3]]


def test_a_removed_job_frees_its_sequence() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, n_sequences=1)
    queue = EmbeddingQueue(vector_runner)
    long, waiting, other = job(*range(40)), job(1), job(2)
    for item in (long, waiting, other):
        queue.add(item)
    assert queue.run(queue.schedule(), 1) == []
    queue.remove(long)
    queue.remove(waiting)
    assert not vector_runner.sequences
    assert queue.run(queue.schedule(), 1) == [other]
    assert queue.idle
    assert queue.schedule() == []


@pytest.mark.parametrize("whole", [True, False])
def test_a_caller_with_one_text_does_not_wait_for_thousands_of_another(*, whole: bool) -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_batch=16, n_cells=1000, whole=whole))
    for _ in range(2000):
        queue.add(job(*range(8), caller="many"))
    queue.run(queue.schedule(), 1)
    single = job(*range(8), caller="one")
    queue.add(single)
    assert single in queue.run(queue.schedule(), 1)


@pytest.mark.parametrize("whole", [True, False])
def test_a_short_text_does_not_wait_for_long_ones(*, whole: bool) -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_ctx=2000, n_batch=64, n_cells=2512, whole=whole))
    longs = [job(*range(2000)) for _ in range(9)]
    for item in longs:
        queue.add(item)
    for _ in range(5):
        queue.run(queue.schedule(), 1)
    short = job(*range(30))
    queue.add(short)
    assert short in [*queue.run(queue.schedule(), 1), *queue.run(queue.schedule(), 1)]


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("n_sequences", [1, 4])
def test_a_stream_of_short_texts_does_not_starve_long_ones(n_sequences: int, *, whole: bool) -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_ctx=2000, n_batch=64, n_cells=2512, n_sequences=n_sequences, whole=whole))
    middle, long, finished = job(*range(1000)), job(*range(2000)), []
    for item in (middle, long):
        queue.add(item)
    for _ in range(4 * (3000 // 64 + 9)):
        for _ in range(4):
            queue.add(job(*range(30), caller="others"))
        parts = queue.schedule()
        assert parts
        finished += queue.run(parts, 1)
    assert [item for item in finished if item in (middle, long)] == [middle, long]


def test_a_batch_has_at_most_the_requested_number_of_tokens() -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_batch=64))
    queue.add(job(*range(90)))
    assert [part.count for part in queue.schedule(20)] == [20]


def test_a_score_covers_the_whole_prompt() -> None:
    jobs = [job(*range(40)), job(7)]
    run_all(EmbeddingQueue(FakeVectorRunner(n_batch=16, ranks=True)), jobs)
    assert [item.vector is not None and item.vector.tolist() for item in jobs] == [[780.0], [7.0]]


# ---- Finished vectors


@pytest.fixture
def finished() -> EmbeddingJob:
    pooled = job(1, 2, pooling=CLS)
    pooled.vector, pooled.n_computed = np.array([3.0, 4.0, 12.0], dtype=np.float32), 2
    return pooled


def test_a_normalized_embedding_has_length_one(finished: EmbeddingJob) -> None:
    assert finished_vector(finished, normalize=True, dimensions=None).tolist() == pytest.approx(
        [3 / 13, 4 / 13, 12 / 13]
    )
    assert finished_vector(finished, normalize=False, dimensions=None).tolist() == [3, 4, 12]


def test_an_embedding_is_cut_before_it_is_normalized(finished: EmbeddingJob) -> None:
    assert finished_vector(finished, normalize=True, dimensions=2).tolist() == pytest.approx([0.6, 0.8])
    assert finished_vector(finished, normalize=False, dimensions=1).tolist() == [3]


def test_a_zero_vector_is_not_normalized(finished: EmbeddingJob) -> None:
    finished.vector = np.zeros(3)
    assert finished_vector(finished, normalize=True, dimensions=None).tolist() == [0, 0, 0]


# ---- Background work

BATCH = contract.BATCH_PRIORITY


def test_background_jobs_have_batches_of_their_own() -> None:
    queue = EmbeddingQueue(FakeVectorRunner())
    line, text = job(1, 2, priority=BATCH), job(3, 4)
    queue.add(line)
    queue.add(text)
    assert [part.job for part in queue.schedule()] == [text]
    assert [part.job for part in queue.schedule(background=True)] == [line]
    assert not queue.is_idle(background=True)
    assert not queue.is_idle(background=False)


@pytest.mark.parametrize(("n_cells", "n_sequences"), [(60, 4), (100, 1)])
def test_a_partly_read_background_job_makes_room(n_cells: int, n_sequences: int) -> None:
    runner = FakeVectorRunner(n_batch=16, n_cells=n_cells, n_sequences=n_sequences)
    queue = EmbeddingQueue(runner)
    line, text = job(*range(40), priority=BATCH), job(*range(50))
    queue.add(line)
    queue.run(queue.schedule(background=True), 1)
    assert line.n_computed == 16
    queue.add(text)
    finished: list[EmbeddingJob] = []
    while not queue.is_idle(background=False):
        finished += queue.run(queue.schedule(), 1)
    assert (line.n_computed, line.vector) == (0, None)
    while not queue.idle:
        finished += queue.run(queue.schedule(background=True), 1)
    assert finished == [text, line]
    assert vector(line) == [19.5, 19.5, 1]
    assert not runner.sequences


def test_flex_jobs_come_before_those_of_batches() -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_batch=2))
    line, flex = job(1, 2, priority=BATCH), job(3, 4, priority=contract.FLEX_PRIORITY)
    for item in (line, flex):
        queue.add(item)
    finished: list[EmbeddingJob] = []
    while not queue.idle:
        finished += queue.run(queue.schedule(background=True), 1)
    assert finished == [flex, line]


def test_a_removed_background_job_frees_its_sequence() -> None:
    runner = FakeVectorRunner(n_batch=16)
    queue = EmbeddingQueue(runner)
    line = job(*range(40), priority=BATCH)
    queue.add(line)
    queue.run(queue.schedule(background=True), 1)
    queue.remove(line)
    assert queue.idle
    assert not runner.sequences
