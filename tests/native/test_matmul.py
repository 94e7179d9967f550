"""Products with quantized weights, in each memory in which llama.cpp may keep them, against numpy's."""

import numpy as np
import pytest

from tests.native import ggml

BUFFERS = {"CPU": None} | {name: kind for name, kind in ggml.weight_buffers().items() if name == "AMX"}
KINDS = {"q4_0": ggml.Q4_0, "q4_1": ggml.Q4_1, "q8_0": ggml.Q8_0}
ROWS = [*range(1, 10), 15, 16, 17, 24, 25, 31, 32, 33, 75]
"""Around the limits of the kernels for few and for many rows."""


def product(kind: int, buffer: int | None, weights: ggml.Floats, rows: ggml.Floats, threads: int) -> ggml.Floats:
    with ggml.Graph() as graph:
        packed = graph.weights(kind, ggml.quantize(kind, weights), weights.shape, buffer)
        result = graph.mul_mat(packed, graph.tensor(rows))
        return graph.compute(result, (len(rows), len(weights)), threads)


def exact(kind: int, weights: ggml.Floats, rows: ggml.Floats) -> ggml.Floats:
    return rows @ ggml.dequantize(kind, ggml.quantize(kind, weights), weights.shape).T


def error(values: ggml.Floats, of: ggml.Floats) -> float:
    return float(np.sqrt(np.mean((values - of) ** 2)) / np.std(of))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(32, 32), (96, 576), (1536, 64), (64, 4096)])
def test_product_is_that_of_the_weights(buffer: str, kind: str, n: int, k: int, random: np.random.Generator) -> None:
    weights = random.standard_normal((n, k), dtype=np.float32)
    for n_rows in ROWS:
        sizes = random.uniform(0.01, 100, (n_rows, 1)).astype(np.float32)
        rows = sizes * random.standard_normal((n_rows, k), dtype=np.float32)
        got = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=1 + n_rows % 3)
        want = exact(KINDS[kind], weights, rows)
        assert max(error(*pair) for pair in zip(got, want, strict=True)) < 0.03, n_rows  # The rows have 8 bits.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffer", BUFFERS.keys() - {"CPU"} or {"CPU"})
def test_row_does_not_depend_on_those_beside_it(kind: str, buffer: str, random: np.random.Generator) -> None:
    weights = random.standard_normal((96, 576), dtype=np.float32)
    rows = random.standard_normal((75, 576), dtype=np.float32)
    together = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=2)
    for n_rows in ROWS:
        alone = product(KINDS[kind], BUFFERS[buffer], weights, rows[:n_rows], threads=1)
        assert np.array_equal(alone, together[:n_rows]), n_rows


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_of_large_numbers(buffer: str, kind: str, random: np.random.Generator) -> None:
    weights = random.standard_normal((32, 64), dtype=np.float32)
    rows = np.stack([np.zeros(64), np.full(64, 1e2), np.full(64, -1e-2)]).astype(np.float32)
    got = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=2)
    want = exact(KINDS[kind], weights, rows)
    assert np.all(got[0] == 0)
    assert all(error(*pair) < 0.03 for pair in zip(got[1:], want[1:], strict=True))
