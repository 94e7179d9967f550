from collections.abc import Iterator

import pytest

from tests.wire.fake_worker import FakeWorker


@pytest.fixture(params=[False, True], ids=["stream a request", "step batches"])
def both_kinds_of_stream(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs the test with a backend of each kind; the results must be the same."""
    before, FakeWorker.STEP_BATCHES = FakeWorker.STEP_BATCHES, request.param
    yield
    FakeWorker.STEP_BATCHES = before
