"""Selection of the highest values, compared with a full sort."""

from collections.abc import Iterator

import numpy as np
import pytest

from anyserve_worker.sampling.selection import Values, heaviest, highest

pytestmark = pytest.mark.slow

SIZES = [1, 2, 1023, 2048, 2049, 4099, 49_152, 151_936]


def shapes(n: int) -> Iterator[tuple[str, Values]]:
    """Yields values of several distributions, including flat ones, equal values and -inf."""
    random = np.random.default_rng(n)
    zipf = -1.5 * np.log(np.arange(1, n + 1))
    random.shuffle(zipf)
    masked = random.standard_normal(n)
    masked[random.random(n) < 0.999] = -np.inf
    masked[n - 1] = 1
    alone = np.full(n, -np.inf)
    alone[n // 2] = 2
    for name, values in {
        "normal": random.standard_normal(n) * 3,
        "zipf": zipf,
        "nearly flat": random.standard_normal(n) / 100,
        "flat": np.zeros(n),
        "equals": random.integers(-5, 5, n),
        "peaked": random.standard_normal(n) + 40 * (np.arange(n) == n // 3),
        "huge": random.standard_normal(n) * 1e30,
        "masked": masked,
        "alone": alone,
    }.items():
        yield name, values.astype(np.float32)


def in_order(values: Values) -> "np.ndarray[tuple[int], np.dtype[np.int64]]":
    """Returns the indices of the values above -inf, highest first; equal values in order of their index."""
    order = np.argsort(-values, kind="stable")
    return order[: np.count_nonzero(values > -np.inf)]


@pytest.mark.parametrize("n", SIZES)
def test_highest_returns_the_indices_of_the_highest_values(n: int) -> None:
    for name, values in shapes(n):
        for count in (1, 2, 40, 500, n // 2 + 1, n, 2 * n):
            assert highest(values, count).tolist() == sorted(in_order(values)[:count].tolist()), (name, count)


@pytest.mark.parametrize("beyond", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_heaviest_returns_the_fewest_indices_whose_weights_reach_a_mass(n: int, beyond: bool) -> None:
    for name, keys in shapes(n):
        # sums of powers of two are exact in any order
        weights = (2.0 ** np.random.default_rng(n + 1).integers(-12, 0, n)).astype(np.float32)
        order = in_order(keys)
        cumulated = weights[order].cumsum(dtype=np.float64)
        for mass in (0.0, *(float(cumulated[-1]) * part for part in (0.1, 0.5, 0.9, 0.999, 1.0, 1.1))):
            enough = cumulated > mass if beyond else cumulated >= mass
            expected = order[: 1 + int(enough.argmax())] if enough.any() else order
            assert heaviest(keys, weights, mass, beyond=beyond).tolist() == sorted(expected.tolist()), (name, mass)
