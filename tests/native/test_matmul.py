"""Products with quantized weights match numpy's, in each buffer type in which llama.cpp may keep the weights."""

import numpy as np
import pytest

from tests.native import ggml

BUFFERS = {"CPU": None} | {name: kind for name, kind in ggml.weight_buffers().items() if name == "AMX"}
KINDS = {"q4_0": ggml.Q4_0, "q4_1": ggml.Q4_1, "q8_0": ggml.Q8_0}
ROWS = [*range(1, 10), 15, 16, 17, 24, 25, 31, 32, 33, 75]
"""Row counts around the limits of the kernels for few and for many rows."""


def product(kind: int, buffer: int | None, weights: ggml.Floats, rows: ggml.Floats, threads: int) -> ggml.Floats:
    with ggml.Graph() as graph:
        packed = graph.weights(kind, ggml.quantize(kind, weights), weights.shape, buffer)
        result = graph.mul_mat(packed, graph.tensor(rows))
        return graph.compute(result, (len(rows), len(weights)), threads)


def exact(kind: int, weights: ggml.Floats, rows: ggml.Floats) -> ggml.Floats:
    return rows @ ggml.dequantize(kind, ggml.quantize(kind, weights), weights.shape).T


def error(values: ggml.Floats, expected: ggml.Floats) -> float:
    return float(np.sqrt(np.mean((values - expected) ** 2)) / np.std(expected))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(1)


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(32, 32), (96, 576), (1536, 64), (64, 4096)])
def test_a_product_matches_numpy(buffer: str, kind: str, n: int, k: int, random: np.random.Generator) -> None:
    weights = random.standard_normal((n, k), dtype=np.float32)
    for n_rows in ROWS:
        sizes = random.uniform(0.01, 100, (n_rows, 1)).astype(np.float32)
        rows = sizes * random.standard_normal((n_rows, k), dtype=np.float32)
        actual = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=1 + n_rows % 3)
        expected = exact(KINDS[kind], weights, rows)
        assert max(error(*pair) for pair in zip(actual, expected, strict=True)) < 0.03, (
            n_rows
        )  # the rows are quantized to 8 bits


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("buffer", BUFFERS.keys() - {"CPU"} or {"CPU"})
def test_a_row_does_not_depend_on_other_rows(kind: str, buffer: str, random: np.random.Generator) -> None:
    weights = random.standard_normal((96, 576), dtype=np.float32)
    rows = random.standard_normal((75, 576), dtype=np.float32)
    together = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=2)
    for n_rows in ROWS:
        alone = product(KINDS[kind], BUFFERS[buffer], weights, rows[:n_rows], threads=1)
        assert np.array_equal(alone, together[:n_rows]), n_rows


@pytest.mark.parametrize("buffer", BUFFERS)
@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_zeros_and_of_large_numbers_match_numpy(buffer: str, kind: str, random: np.random.Generator) -> None:
    weights = random.standard_normal((32, 64), dtype=np.float32)
    rows = np.stack([np.zeros(64), np.full(64, 1e2), np.full(64, -1e-2)]).astype(np.float32)
    actual = product(KINDS[kind], BUFFERS[buffer], weights, rows, threads=2)
    expected = exact(KINDS[kind], weights, rows)
    assert np.all(actual[0] == 0)
    assert all(error(*pair) < 0.03 for pair in zip(actual[1:], expected[1:], strict=True))
