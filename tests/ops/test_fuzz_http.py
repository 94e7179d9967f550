"""Random requests that fit the OpenAPI document, and ones that don't, to a sidecar: see fuzz_http."""

from collections.abc import Iterator

import pytest
from schemathesis import GenerationMode

from openai_server.api.registry import ENDPOINTS
from tests.ops import fuzz_http
from tests.ops.fuzz_http import Fuzzer

OPERATIONS = [(endpoint.method, endpoint.name) for endpoint in ENDPOINTS if endpoint.description]
POSTS = [path for method, path in OPERATIONS if method == "POST"]
BODILESS = ["/v1/responses/{response_id}/cancel"]
OTHERS = [pytest.param(*operation, id=" ".join(operation)) for operation in OPERATIONS if operation[0] != "POST"]


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with fuzz_http.sidecar() as url:
        yield Fuzzer(url)


def test_every_endpoint_is_an_operation(fuzzer: Fuzzer) -> None:
    assert {*fuzzer.operations, ("GET", "/openapi.json")} == set(OPERATIONS)


@pytest.mark.parametrize("path", POSTS)
def test_bodies_that_fit_the_document_get_valid_responses(fuzzer: Fuzzer, path: str) -> None:
    n_accepted = fuzzer.n_accepted
    fuzzer.run("POST", path, GenerationMode.POSITIVE, examples=60)
    assert fuzzer.n_accepted - n_accepted >= 10


@pytest.mark.parametrize("path", [path for path in POSTS if path not in BODILESS])
def test_bodies_that_do_not_fit_are_refused(fuzzer: Fuzzer, path: str) -> None:
    n_sent, n_accepted = fuzzer.n_sent, fuzzer.n_accepted
    fuzzer.run("POST", path, GenerationMode.NEGATIVE, examples=60)
    assert fuzzer.n_sent - n_sent > 2 * (fuzzer.n_accepted - n_accepted)  # in some requests only the headers don't fit


@pytest.mark.parametrize(("method", "path"), OTHERS)
def test_paths_get_valid_responses(fuzzer: Fuzzer, method: str, path: str) -> None:
    fuzzer.run(method, path, GenerationMode.POSITIVE, examples=20)
