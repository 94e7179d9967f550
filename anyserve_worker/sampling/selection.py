"""Finds the highest of many values without sorting all of them. PURE.

A few passes of numpy over the values find a lower bound of the result. Only a short list of values reaches it.
"""

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

N_FIRST = (256, 2048)
"""Highest values to search for a mass, first and second. In a distribution of tokens they have nearly all of it."""
MAX_SORTED = 4096
"""Maximum values to sort. Longer lists are narrowed down first."""


def at_least(values: Values, bound: float) -> Indices:
    """Returns the indices of values that reach a bound, ascending."""
    return (values >= np.float32(bound)).nonzero()[0]


def highest(values: Values, n: int) -> Indices:
    """Returns the indices of the `n` highest values above -inf, ascending; among equals the first."""
    near = _near(values, n)
    if len(near) <= n:
        return near
    at_hand = values[near]
    last = np.partition(at_hand, len(near) - n)[len(near) - n]
    chosen = at_hand > last
    chosen[(at_hand == last).nonzero()[0][: n - np.count_nonzero(chosen)]] = True
    kept: Indices = near[chosen]
    return kept


def heaviest(keys: Values, weights: Values, mass: float, *, beyond: bool) -> Indices:
    """Returns the fewest indices, from the highest key on, whose weights reach `mass`, or exceed it (`beyond`).

    They are ascending. Among equal keys the first are taken. If the weights don't reach the mass, all above -inf are.
    """
    for n_first in N_FIRST:
        near = _near(keys, n_first)
        if len(near) > MAX_SORTED:
            break
        order = near[np.argsort(-keys[near], kind="stable")]
        cumulated = weights[order].cumsum(dtype=np.float64)
        n = _count(cumulated, mass, beyond)
        if n <= len(order):
            chosen = order[:n]
            chosen.sort()
            return chosen
    return _heaviest_of_many(keys, weights, mass, beyond)


def _count(cumulated: npt.NDArray[np.float64], mass: float, beyond: bool) -> int:
    """Returns how many items are needed to reach the mass, or exceed it; one more than exist if all don't suffice."""
    return int(cumulated.searchsorted(mass, side="right" if beyond else "left")) + 1


def _heaviest_of_many(keys: Values, weights: Values, mass: float, beyond: bool) -> Indices:
    """Computes `heaviest` for a flat distribution, by halving the interval of keys that has the last one."""
    kept = np.zeros(len(keys), dtype=np.bool_)
    undecided = (keys > -np.inf).nonzero()[0]
    above = 0.0
    while len(undecided) > MAX_SORTED:
        at_hand = keys[undecided]
        low, high = at_hand.min(), at_hand.max()
        if low == high:
            break
        middle = low + (high - low) / 2
        upper = at_hand >= (middle if middle > low else high)
        in_upper = undecided[upper]
        with_upper = above + float(weights[in_upper].sum(dtype=np.float64))
        if with_upper > mass or (with_upper == mass and not beyond):
            undecided = in_upper
        else:
            above = with_upper
            kept[in_upper] = True
            undecided = undecided[~upper]
    order = undecided[np.argsort(-keys[undecided], kind="stable")]
    cumulated = above + weights[order].cumsum(dtype=np.float64)
    kept[order[: _count(cumulated, mass, beyond)]] = True
    return kept.nonzero()[0]


def _near(values: Values, n: int) -> Indices:
    """Returns the ascending indices of values above -inf that reach a lower bound of the `n` highest.

    The bound is the n-th highest of the maxima of groups, which is close to the n-th highest value.
    """
    n_groups = max(1024, 4 * n)
    rows = len(values) // n_groups
    if rows < 2:
        return (values > -np.inf).nonzero()[0]
    maxima = values[: rows * n_groups].reshape(rows, n_groups).max(axis=0)
    rest = values[rows * n_groups :]
    np.maximum(maxima[: len(rest)], rest, out=maxima[: len(rest)])
    bound = np.partition(maxima, n_groups - n)[n_groups - n]
    return (values >= bound if bound > -np.inf else values > -np.inf).nonzero()[0]
