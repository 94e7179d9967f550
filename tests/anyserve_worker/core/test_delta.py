"""`merge` joins the deltas of several steps into one for each choice."""

from anyserve_worker.core.delta import merge
from tests.anyserve_worker.service.test_responder import FIRST, SECOND, THIRD, delta


def test_merging_keeps_each_choices_order_and_its_last_counts() -> None:
    merged = merge([delta(1, "x", n=1), delta(0, "a", n=1), delta(1, "y", n=2), delta(1, "z", "stop", n=3, cached=8)])
    assert merged == [delta(0, "a", n=1), delta(1, "xyz", "stop", n=3, cached=8)]


def test_merging_keeps_log_probabilities_in_order() -> None:
    merged = merge([delta(0, "a", None, 1, 4, FIRST), delta(0, "", None, 2), delta(0, "b", None, 3, 4, SECOND, THIRD)])
    assert merged[0].logprobs == (FIRST, SECOND, THIRD)


def test_no_deltas_merge_to_none() -> None:
    assert merge([]) == []
