"""`python -m tests.ops.fuzz_http`: sends requests generated from the served OpenAPI document, valid and invalid.

Schemathesis generates them, and checks each response: it is no server error (500), and its status, content type,
headers and shape are in the document. Requests that the document rules out must be refused. The sidecar is a process
with a worker without a model, see able_worker.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    allow_header_conformance,
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e import servers
from tests.ops import able_worker

KEY = "sk-fuzz"
TIMEOUT = 10.0
"""Maximum seconds of a response; all take milliseconds."""
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
    allow_header_conformance,
    ignored_auth,
]


@contextmanager
def sidecar() -> Iterator[str]:
    """Yields the sidecar's URL; checks at the end that it still serves and has logged no failure."""
    with able_worker.listening() as address, servers.sidecar(address, "--api-key", KEY) as (process, url):
        servers.eventually(lambda: requests.get(f"{url}/readyz", timeout=TIMEOUT).ok)
        yield url
        assert requests.get(f"{url}/readyz", timeout=TIMEOUT).ok
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


MODEL = "tiny"
"""The model of the fake worker."""
NEED_MODEL = ("/v1/responses/compact",)
"""Paths whose requests must name a model, which no random text does."""


class Fuzzer:
    """Fuzzes one sidecar with the document that it serves."""

    def __init__(self, url: str) -> None:
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self._session = requests.Session()
        self.n_sent = 0
        self.n_accepted = 0

    @property
    def operations(self) -> list[tuple[str, str]]:
        """Method and path of each operation."""
        operations = [result.ok() for result in self.schema.get_all_operations() if isinstance(result, Ok)]
        return [(operation.method.upper(), operation.path) for operation in operations]

    def run(self, method: str, path: str, mode: GenerationMode, *, examples: int, number: int = 0) -> None:
        """Raises if a response fails a check. `number` seeds the requests."""
        operation = self.schema[path][method]

        @seed(number)
        @settings(
            max_examples=examples,
            derandomize=False,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def send(case: Case[Any]) -> None:
            if path in NEED_MODEL and mode is GenerationMode.POSITIVE and isinstance(case.body, dict):
                case.body["model"] = MODEL
            self._send(case)

        send()

    def _send(self, case: Case[Any]) -> None:
        began = time.monotonic()
        response: Any = case.call_and_validate(
            session=self._session,
            headers={"Authorization": f"Bearer {KEY}"},
            checks=CHECKS,
            timeout=TIMEOUT,
        )
        assert time.monotonic() - began < TIMEOUT
        self.n_sent += 1
        self.n_accepted += response.status_code == 200


@click.command()
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--seed", "number", default=1, show_default=True, help="Seed of the first round; each round adds one.")
def main(minutes: float, number: int) -> None:
    """Sends random requests to a sidecar, one operation after another. Stops at the first wrong response."""
    ends = time.monotonic() + minutes * 60
    with sidecar() as url:
        fuzzer = Fuzzer(url)
        while time.monotonic() < ends:
            for method, path in fuzzer.operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    if mode is GenerationMode.NEGATIVE and method == "GET":
                        continue  # a GET has no part that could be invalid
                    fuzzer.run(method, path, mode, examples=200, number=number)
            number += 1
            click.echo(f"{fuzzer.n_sent} requests, {fuzzer.n_accepted} of them accepted; next seed {number}")


if __name__ == "__main__":
    sys.exit(main())
