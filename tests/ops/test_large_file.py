"""A file that is larger than the memory that a sidecar may take for it."""

import pytest

from tests.ops.large_file import LIMIT_MIB, MIB, run

pytestmark = pytest.mark.slow

FILE_BYTES = 96 * MIB + 12345
PART_BYTES = 16 * MIB
GROWTH_MIB = 48


def test_a_file_passes_through_without_being_in_memory() -> None:
    figures = run(FILE_BYTES, limited=False, part=PART_BYTES)
    assert figures.problems == []
    assert figures.peak_mib < LIMIT_MIB
    assert figures.peak_mib - figures.at_rest_mib < GROWTH_MIB
