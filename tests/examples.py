"""The number of examples that Hypothesis tries in a test whose number differs from that of other tests."""

from hypothesis import settings

USUAL = 100
"""Examples of a test without a number of its own in `make test`."""


def examples(n: int) -> int:
    """Returns `n` in `make test`, and in other profiles fewer or more, in the ratio of the profile's number to 100."""
    return max(1, n * settings().max_examples // USUAL)
