"""The highest of many values, against sorting them all."""

from collections.abc import Iterator

import numpy as np
import pytest

from anyserve_worker.sampling.selection import Values, heaviest, highest

SIZES = [1, 2, 1023, 2048, 2049, 4099, 49_152, 151_936]


def shapes(n: int) -> Iterator[tuple[str, Values]]:
    """Values of many distributions, among them flat ones, equal ones and impossible ones."""
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
    """Returns indices from the highest value above -inf on; among equals the first."""
    order = np.argsort(-values, kind="stable")
    return order[: np.count_nonzero(values > -np.inf)]


@pytest.mark.parametrize("n", SIZES)
def test_the_highest(n: int) -> None:
    for name, values in shapes(n):
        for count in (1, 2, 40, 500, n // 2 + 1, n, 2 * n):
            assert highest(values, count).tolist() == sorted(in_order(values)[:count].tolist()), (name, count)


@pytest.mark.parametrize("beyond", [False, True])
@pytest.mark.parametrize("n", SIZES)
def test_the_fewest_that_have_a_mass(n: int, beyond: bool) -> None:
    for name, keys in shapes(n):
        # Powers of two add up exactly in every order.
        weights = (2.0 ** np.random.default_rng(n + 1).integers(-12, 0, n)).astype(np.float32)
        order = in_order(keys)
        cumulated = weights[order].cumsum(dtype=np.float64)
        for mass in (0.0, *(float(cumulated[-1]) * part for part in (0.1, 0.5, 0.9, 0.999, 1.0, 1.1))):
            enough = cumulated > mass if beyond else cumulated >= mass
            expected = order[: 1 + int(enough.argmax())] if enough.any() else order
            assert heaviest(keys, weights, mass, beyond=beyond).tolist() == sorted(expected.tolist()), (name, mass)
