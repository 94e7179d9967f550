"""What the OpenAPI document describes, at random, and what it rules out, at a sidecar: see fuzz_http."""

from collections.abc import Iterator

import pytest
from schemathesis import GenerationMode

from openai_server.api.registry import ENDPOINTS
from tests.ops import fuzz_http
from tests.ops.fuzz_http import Fuzzer

POSTS = [endpoint.name for endpoint in ENDPOINTS if endpoint.description and endpoint.method == "POST"]
GETS = [endpoint.name for endpoint in ENDPOINTS if endpoint.description and endpoint.method == "GET"]


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with fuzz_http.sidecar() as url:
        yield Fuzzer(url)


def test_all_operations_are_here(fuzzer: Fuzzer) -> None:
    found = set(fuzzer.operations)
    assert found | {("GET", "/openapi.json")} == {("POST", path) for path in POSTS} | {("GET", path) for path in GETS}


@pytest.mark.parametrize("path", POSTS)
def test_bodies_that_fit(fuzzer: Fuzzer, path: str) -> None:
    accepted = fuzzer.accepted
    fuzzer.run("POST", path, GenerationMode.POSITIVE, examples=60)
    assert fuzzer.accepted - accepted >= 10


@pytest.mark.parametrize("path", POSTS)
def test_bodies_that_do_not(fuzzer: Fuzzer, path: str) -> None:
    asked, accepted = fuzzer.asked, fuzzer.accepted
    fuzzer.run("POST", path, GenerationMode.NEGATIVE, examples=60)
    assert fuzzer.asked - asked > 2 * (fuzzer.accepted - accepted)  # of some only the headers are odd


@pytest.mark.parametrize("path", GETS)
def test_paths(fuzzer: Fuzzer, path: str) -> None:
    fuzzer.run("GET", path, GenerationMode.POSITIVE, examples=20)
