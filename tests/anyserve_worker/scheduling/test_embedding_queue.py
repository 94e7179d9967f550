"""Batches of prompts, their order, and the pooling of their tokens' vectors."""

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


def job(*tokens: int, pooling: str = MEAN, caller: str = "") -> EmbeddingJob:
    return EmbeddingJob(array("i", tokens), pooling, caller)


def all_done(queue: EmbeddingQueue, jobs: Sequence[EmbeddingJob]) -> list[EmbeddingJob]:
    """Runs all jobs. Returns them in the order in which they were done."""
    for item in jobs:
        queue.add(item)
    done: list[EmbeddingJob] = []
    while not queue.idle:
        done += queue.run(queue.schedule(), 1)
    return done


def vector(done: EmbeddingJob) -> list[float]:
    return [float(element) for element in finished_vector(done, normalize=False, dimensions=None)]


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    poolings=st.lists(st.sampled_from(contract.POOLINGS), min_size=12, max_size=12),
    n_batch=st.integers(1, 50),
    n_cells=st.integers(50, 90),
    n_sequences=st.integers(1, 5),
    whole=st.booleans(),
)
def test_every_prompt_gets_its_own_vector_in_turn(
    lengths: list[int], poolings: list[str], n_batch: int, n_cells: int, n_sequences: int, whole: bool
) -> None:
    vector_runner = FakeVectorRunner(n_batch=n_batch, n_cells=n_cells, n_sequences=n_sequences, whole=whole)
    jobs = [job(*range(10 * i, 10 * i + n), pooling=poolings[i]) for i, n in enumerate(lengths)]
    assert all_done(EmbeddingQueue(vector_runner), jobs) == jobs, "all are short"
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
    all_done(EmbeddingQueue(vector_runner), [job(*range(3)) for _ in range(6)])
    assert vector_runner.batches == [[3, 3, 3, 3], [3, 3]]


def test_a_long_prompt_is_read_in_chunks_and_the_next_one_fills_up() -> None:
    vector_runner = FakeVectorRunner(n_batch=16)
    all_done(EmbeddingQueue(vector_runner), [job(*range(40)), job(*range(10))])
    assert vector_runner.batches == [[16], [16], [8, 8], [2]]


def test_where_every_token_sees_all_others_prompts_stay_whole() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, whole=True)
    all_done(EmbeddingQueue(vector_runner), [job(*range(n)) for n in (10, 10, 40, 5, 5)])
    assert vector_runner.batches == [[10], [10], [40], [5, 5]]


def test_cells_are_not_promised_twice() -> None:
    vector_runner = FakeVectorRunner(n_batch=16, n_cells=20)
    all_done(EmbeddingQueue(vector_runner), [job(*range(17)), job(*range(5)), job(*range(3))])
    assert vector_runner.batches == [[16], [1], [5, 3]]


def test_a_removed_job_leaves_nothing_behind() -> None:
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
def test_a_caller_with_one_text_does_not_wait_for_another_callers_thousands(*, whole: bool) -> None:
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
def test_a_flow_of_short_texts_starves_no_long_one(n_sequences: int, *, whole: bool) -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_ctx=2000, n_batch=64, n_cells=2512, n_sequences=n_sequences, whole=whole))
    middle, long, done = job(*range(1000)), job(*range(2000)), []
    for item in (middle, long):
        queue.add(item)
    for _ in range(4 * (3000 // 64 + 9)):
        for _ in range(4):
            queue.add(job(*range(30), caller="others"))
        parts = queue.schedule()
        assert parts
        done += queue.run(parts, 1)
    assert [item for item in done if item in (middle, long)] == [middle, long]


def test_a_batch_is_no_longer_than_it_should_be() -> None:
    queue = EmbeddingQueue(FakeVectorRunner(n_batch=64))
    queue.add(job(*range(90)))
    assert [part.count for part in queue.schedule(20)] == [20]


def test_a_score_is_that_of_the_whole_prompt() -> None:
    jobs = [job(*range(40)), job(7)]
    all_done(EmbeddingQueue(FakeVectorRunner(n_batch=16, ranks=True)), jobs)
    assert [item.vector is not None and item.vector.tolist() for item in jobs] == [[780.0], [7.0]]


# ---- From a vector to an embedding


@pytest.fixture
def done() -> EmbeddingJob:
    pooled = job(1, 2, pooling=CLS)
    pooled.vector, pooled.n_computed = np.array([3.0, 4.0, 12.0], dtype=np.float32), 2
    return pooled


def test_an_embedding_has_the_length_one(done: EmbeddingJob) -> None:
    assert finished_vector(done, normalize=True, dimensions=None).tolist() == pytest.approx([3 / 13, 4 / 13, 12 / 13])
    assert finished_vector(done, normalize=False, dimensions=None).tolist() == [3, 4, 12]


def test_it_is_cut_before_it_is_normalized(done: EmbeddingJob) -> None:
    assert finished_vector(done, normalize=True, dimensions=2).tolist() == pytest.approx([0.6, 0.8])
    assert finished_vector(done, normalize=False, dimensions=1).tolist() == [3]


def test_a_vector_without_a_length_stays_as_it_is(done: EmbeddingJob) -> None:
    done.vector = np.zeros(3)
    assert finished_vector(done, normalize=True, dimensions=None).tolist() == [0, 0, 0]
