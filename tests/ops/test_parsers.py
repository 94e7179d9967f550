"""The targets of fuzz_parsers for a moment each: their seeds as they are, and with some bytes changed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.parsers import TARGETS

EDIT = st.tuples(st.integers(0, 4096), st.integers(0, 4), st.binary(max_size=4))
"""Where, how many bytes are taken away, and what comes in their place."""


def edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    made = bytearray(content)
    for at, taken, put in edits:
        at %= len(made) + 1
        made[at : at + taken] = put
    return bytes(made)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds(name: str) -> None:
    for content in TARGETS[name].seeds():
        TARGETS[name].run(content)


@pytest.mark.parametrize("name", TARGETS)
def test_bytes(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    changed = st.builds(edited, st.sampled_from(seeds), st.lists(EDIT, min_size=1, max_size=4))

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=60) | changed)
    def run(content: bytes) -> None:
        TARGETS[name].run(content)

    run()
