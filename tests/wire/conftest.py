from collections.abc import Iterator

import pytest

from openai_server.prompting import planner
from openai_server.prompting.template_compiler import Compiled, compile_apart
from tests.wire.fake_worker import FakeWorker


@pytest.fixture(params=[False, True], ids=["stream a request", "step batches"])
def both_kinds_of_stream(request: pytest.FixtureRequest) -> Iterator[None]:
    """Runs the test with a backend of each kind; the results must be the same."""
    before, FakeWorker.STEP_BATCHES = FakeWorker.STEP_BATCHES, request.param
    yield
    FakeWorker.STEP_BATCHES = before


@pytest.fixture(scope="package", autouse=True)
def compilations_shared_by_tests() -> Iterator[None]:
    """Compiles each chat template once in all tests: a compilation starts a process, and many tests use one template.

    The fixture `compilations_of_its_own` excludes a test from this.
    """
    results: dict[str, Compiled | str] = {}

    async def compile_once(source: str) -> Compiled | str:
        if source not in results:
            results[source] = await compile_apart(source)
        return results[source]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planner, "compile_apart", compile_once)
        yield


@pytest.fixture
def compilations_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planner, "compile_apart", compile_apart)
