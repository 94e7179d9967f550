"""The attention that our build of llama.cpp has on CPUs, against llama.cpp's other one, which knows nothing of it."""

import random

import llama_cpp as llama
import numpy as np
import pytest

from anyserve_worker.core.options import FlashAttention, ModelOptions
from anyserve_worker.core.sampling_parameters import SamplingParameters
from anyserve_worker.llama.model import Model
from anyserve_worker.llama.model_runner import ModelRunner
from anyserve_worker.scheduling.chunk import Chunk
from anyserve_worker.scheduling.sequence import Sequence, token_array
from anyserve_worker.text.output import TextOutput
from tests.models import smollm2_path

N_SEQUENCES = 5
LENGTH = 240
"""Tokens of each: together more than the 512 cells from which on one row's cells are shared among threads."""


class Recorder:
    """A sampler that keeps the logits."""

    def __init__(self, runner: ModelRunner, logits: list[np.ndarray]) -> None:
        self._runner, self._logits = runner, logits

    def sample(self, row: int) -> int:
        logits = llama.llama_get_logits_ith(self._runner._ctx, row)
        self._logits.append(np.ctypeslib.as_array(logits, (self._runner.model.vocabulary.n_vocab,)).copy())
        return 0

    def free(self) -> None: ...


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(smollm2_path(), ModelOptions(), lambda _: True)


def logits_of(model: Model, flash_attention: FlashAttention) -> np.ndarray:
    """Of the last row of every chunk of a script that has all kinds of steps; shape [chunks, n_vocab]."""
    runner = ModelRunner(model, ModelOptions(n_ctx=2048, flash_attention=flash_attention), threads=2)
    logits: list[np.ndarray] = []
    random_ = random.Random(1)
    sequences = [
        sequence(seq_id, [random_.randrange(100, 40_000) for _ in range(LENGTH)]) for seq_id in range(N_SEQUENCES + 1)
    ]

    def run(*parts: tuple[Sequence, int, int]) -> None:
        for each, _, _ in parts:
            each.sampler = Recorder(runner, logits)
        runner.run([Last(*part) for part in parts], threads=random_.choice([1, 2]))
        runner.sample([Last(*part) for part in parts])

    *running, late = sequences
    # A tile of rows and cells, then blocks of cells of several sequences, one behind the other in the pool.
    for each in running:
        run((each, 0, 100))
    for start in range(100, 200, 10):
        run(*((each, start, 10) for each in running))
    # Single rows, alone and together.
    for step in range(2 * N_SEQUENCES):
        run((running[step % N_SEQUENCES], 200 + step // N_SEQUENCES, 1))
    for start in range(202, 206):
        run(*((each, start, 1) for each in running))
    # A row whose cells begin in the part that another sequence computed.
    runner.copy(0, late.seq_id, 150)
    run((late, 150, 70))
    for start in range(220, 230):
        run((late, start, 1))
    runner.free()
    return np.array(logits)


class Last(Chunk):
    """A chunk whose last row's logits are wanted, wherever it ends."""

    @property
    def samples(self) -> bool:
        return True


def sequence(seq_id: int, tokens: list[int]) -> Sequence:
    return Sequence(
        index=0,
        tokens=token_array(tokens),
        n_prompt=len(tokens),
        limit=LENGTH,
        sampling=SamplingParameters(),
        output=TextOutput(()),
        seq_id=seq_id,
    )


def test_flash_attention_is_attention(model: Model) -> None:
    ours, other = logits_of(model, "on"), logits_of(model, "off")
    # Everything but attention is computed with 8 bits, which makes much of little: 8 % of difference on average.
    difference = np.sqrt(np.mean((ours - other) ** 2, axis=1)) / np.std(other, axis=1)
    assert np.all(np.isfinite(ours))
    assert np.mean(difference) < 0.15
    assert np.max(difference) < 0.5
