"""Each check with each backend: `make test-foreign PYTEST_ARGS="-k vllm"`."""

import pytest

from tests.foreign.bench import Bench
from tests.foreign.checks import CHECKS


@pytest.mark.parametrize("check", CHECKS)
def test_check(bench: Bench, check: str) -> None:
    CHECKS[check](bench)
