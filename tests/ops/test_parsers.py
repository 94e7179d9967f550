"""Runs each target of fuzz_parsers briefly: with its seeds, unchanged and with some bytes changed."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ops.parsers import TARGETS

EDIT = st.tuples(st.integers(0, 4096), st.integers(0, 4), st.binary(max_size=4))
"""Position, number of bytes to remove, and bytes to insert."""


def edited(content: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    result = bytearray(content)
    for at, n_removed, inserted in edits:
        at %= len(result) + 1
        result[at : at + n_removed] = inserted
    return bytes(result)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_break_no_parser(name: str) -> None:
    for content in TARGETS[name].seeds():
        TARGETS[name].run(content)


@pytest.mark.parametrize("name", TARGETS)
def test_changed_and_random_bytes_break_no_parser(name: str) -> None:
    seeds = list(TARGETS[name].seeds())
    changed = st.builds(edited, st.sampled_from(seeds), st.lists(EDIT, min_size=1, max_size=4))

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=60) | changed)
    def run(content: bytes) -> None:
        TARGETS[name].run(content)

    run()
