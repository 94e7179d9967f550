"""Attention as our patches compute it on CPUs, compared with llama.cpp's unpatched implementation."""

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
N_TOKENS = 240
"""Tokens of each sequence: together more than 512 cells, beyond which threads share the cells of a row."""


class Recorder:
    """A sampler that records the logits."""

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
    """Returns the logits of the last row of every chunk, shape [chunks, n_vocab], in a script with all kinds of
    steps."""
    runner = ModelRunner(model, ModelOptions(n_ctx=2048, flash_attention=flash_attention), threads=2)
    logits: list[np.ndarray] = []
    random_ = random.Random(1)
    sequences = [
        sequence(seq_id, [random_.randrange(100, 40_000) for _ in range(N_TOKENS)]) for seq_id in range(N_SEQUENCES + 1)
    ]

    def run(*parts: tuple[Sequence, int, int]) -> None:
        for part, _, _ in parts:
            part.sampler = Recorder(runner, logits)
        runner.run([SampledChunk(*part) for part in parts], threads=random_.choice([1, 2]))
        runner.sample([SampledChunk(*part) for part in parts])

    *running, forked = sequences
    # A tile of rows and cells, then blocks of cells of several sequences, consecutive in the pool.
    for part in running:
        run((part, 0, 100))
    for start in range(100, 200, 10):
        run(*((part, start, 10) for part in running))
    # Single rows, alone and together.
    for step in range(2 * N_SEQUENCES):
        run((running[step % N_SEQUENCES], 200 + step // N_SEQUENCES, 1))
    for start in range(202, 206):
        run(*((part, start, 1) for part in running))
    # A row whose first cells were computed for another sequence.
    runner.copy(0, forked.seq_id, 150)
    run((forked, 150, 70))
    for start in range(220, 230):
        run((forked, start, 1))
    runner.free()
    return np.array(logits)


class SampledChunk(Chunk):
    """A chunk whose last row's logits are computed, wherever it ends."""

    @property
    def samples(self) -> bool:
        return True


def sequence(seq_id: int, tokens: list[int]) -> Sequence:
    return Sequence(
        index=0,
        tokens=token_array(tokens),
        n_prompt=len(tokens),
        limit=N_TOKENS,
        sampling=SamplingParameters(),
        output=TextOutput(()),
        seq_id=seq_id,
    )


def test_flash_attention_gives_the_results_of_attention(model: Model) -> None:
    patched, unpatched = logits_of(model, "on"), logits_of(model, "off")
    # The rest of the model computes with 8 bits, which amplifies small differences: 8 % on average.
    difference = np.sqrt(np.mean((patched - unpatched) ** 2, axis=1)) / np.std(unpatched, axis=1)
    assert np.all(np.isfinite(patched))
    assert np.mean(difference) < 0.15
    assert np.max(difference) < 0.5
