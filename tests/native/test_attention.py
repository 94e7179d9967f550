"""Attention to half-precision cells gives numpy's results, for all kinds of masks, heads and biases that models
have."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.native import ggml

MASKED = -np.inf
Halves = NDArray[np.float16]


@dataclass(frozen=True)
class Heads:
    n: int
    n_kv: int
    key: int
    value: int


@dataclass(frozen=True)
class Case:
    heads: Heads
    mask: Halves
    """Shape [rows, cells]."""
    max_bias: float = 0.0
    softcap: float = 0.0
    sinks: bool = False


def attention(case: Case, threads: int) -> tuple[ggml.Floats, ggml.Floats]:
    """Returns the results of ggml and of numpy, shape [rows, heads, value]."""
    heads, (n_rows, n_cells) = case.heads, case.mask.shape
    random = np.random.default_rng(1)
    q = random.standard_normal((heads.n, n_rows, heads.key), dtype=np.float32)
    k = random.standard_normal((heads.n_kv, n_cells, heads.key)).astype(np.float16)
    v = random.standard_normal((heads.n_kv, n_cells, heads.value)).astype(np.float16)
    sinks = random.standard_normal(heads.n, dtype=np.float32) if case.sinks else None
    scale = heads.key**-0.5
    with ggml.Graph() as graph:
        tensors = graph.tensor(q), graph.tensor(k), graph.tensor(v), graph.tensor(case.mask)
        sink_tensor = None if sinks is None else graph.tensor(sinks)
        result = graph.flash_attn(*tensors, sink_tensor, scale=scale, max_bias=case.max_bias, softcap=case.softcap)
        actual = graph.compute(result, (n_rows, heads.n, heads.value), threads)
    return actual, _numpy(case, q, k, v, sinks, scale)


def _numpy(case: Case, q: ggml.Floats, k: Halves, v: Halves, sinks: ggml.Floats | None, scale: float) -> ggml.Floats:
    heads, (n_rows, _) = case.heads, case.mask.shape
    output = np.zeros((n_rows, heads.n, heads.value), dtype=np.float32)
    for head in range(heads.n):
        key, value = (x[head // (heads.n // heads.n_kv)].astype(np.float64) for x in (k, v))
        scores = q[head] @ key.T * scale
        if case.softcap:
            scores = case.softcap * np.tanh(scores / case.softcap)
        scores = scores + _slope(case, head) * case.mask.astype(np.float64)
        all_scores = scores if sinks is None else np.concatenate([scores, np.full((n_rows, 1), sinks[head])], axis=1)
        top = all_scores.max(axis=1, keepdims=True, initial=-1e30)
        output[:, head] = (
            np.exp(scores - top) @ value / np.maximum(np.exp(all_scores - top).sum(axis=1), 1e-30)[:, None]
        )
    return output


def _slope(case: Case, head: int) -> float:
    """ALiBi's slope (https://arxiv.org/abs/2108.12409), for any number of heads, as in ggml."""
    if not case.max_bias:
        return 1.0
    even = 2 ** int(np.log2(case.heads.n))
    if head < even:
        return float(2 ** (-case.max_bias / even * (head + 1)))
    return float(2 ** (-case.max_bias / 2 / even * (2 * (head - even) + 1)))


def causal(n_rows: int, n_cells: int) -> Halves:
    """A causal mask; the rows are the last ones of the cells."""
    row, cell = np.ogrid[:n_rows, :n_cells]
    return np.where(cell <= row + n_cells - n_rows, 0, MASKED).astype(np.float16)


def scattered(n_rows: int, n_cells: int, share: float) -> Halves:
    """A mask for cells of many sequences in one pool."""
    visible = np.random.default_rng(2).random((n_rows, n_cells)) < share
    visible[:, 0] = True
    return np.where(visible, 0, MASKED).astype(np.float16)


LLAMA = Heads(9, 3, 64, 64)
UNSHARED_HEADS = Heads(4, 4, 64, 64)
HEADS = [
    LLAMA,
    UNSHARED_HEADS,
    Heads(14, 2, 64, 64),
    Heads(8, 1, 128, 128),
    Heads(2, 1, 192, 128),
    Heads(4, 1, 256, 256),
    Heads(4, 2, 80, 96),
    Heads(2, 2, 40, 40),
]


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("n_rows", [1, 2, 5, 70])
def test_all_shapes_of_heads_match_numpy(heads: Heads, n_rows: int, threads: int) -> None:
    actual, expected = attention(Case(heads, causal(n_rows, 320)), threads)
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize("heads", [LLAMA, UNSHARED_HEADS], ids=str)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.9])
@pytest.mark.parametrize(("n_rows", "n_cells"), [(1, 100), (1, 1500), (3, 37), (6, 1500), (70, 600)])
def test_all_masks_match_numpy(heads: Heads, n_rows: int, n_cells: int, share: float) -> None:
    actual, expected = attention(Case(heads, scattered(n_rows, n_cells, share)), threads=2)
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize("heads", [LLAMA, UNSHARED_HEADS], ids=str)
@pytest.mark.parametrize("n_rows", [1, 4, 70])
@pytest.mark.parametrize("n_cells", [64, 640])
@pytest.mark.parametrize(
    "extras", [{"max_bias": 8.0}, {"softcap": 5.0}, {"sinks": True}, {"softcap": 5.0, "sinks": True}], ids=str
)
def test_biases_caps_and_sinks_match_numpy(heads: Heads, n_rows: int, n_cells: int, extras: dict[str, float]) -> None:
    mask = causal(n_rows, n_cells)
    if "max_bias" in extras:
        row, cell = np.ogrid[:n_rows, :n_cells]
        mask = np.where(mask == 0, cell - (row + n_cells - n_rows), MASKED).astype(np.float16)
    actual, expected = attention(Case(heads, mask, **extras), threads=2)  # type: ignore[arg-type]
    np.testing.assert_allclose(actual, expected, atol=2e-3)


@pytest.mark.parametrize("heads", [LLAMA, UNSHARED_HEADS], ids=str)
@pytest.mark.parametrize("n_rows", [1, 8])
@pytest.mark.parametrize("n_cells", [64, 640])
def test_a_row_that_attends_to_nothing_is_zero(heads: Heads, n_rows: int, n_cells: int) -> None:
    mask = causal(n_rows, n_cells)
    mask[0] = MASKED
    actual, expected = attention(Case(heads, mask), threads=2)
    assert np.all(actual[0] == 0)
    np.testing.assert_allclose(actual[1:], expected[1:], atol=2e-3)


def test_a_row_does_not_depend_on_other_rows() -> None:
    mask = scattered(70, 400, 0.3)
    together, _ = attention(Case(LLAMA, mask), threads=2)
    other_mask = np.concatenate([mask[:35], scattered(35, 400, 0.8)])
    actual, _ = attention(Case(LLAMA, other_mask), threads=1)
    assert np.array_equal(actual[:35], together[:35])
