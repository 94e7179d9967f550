"""`python -m tests.ops.fuzz_http`: requests made of the OpenAPI document that the sidecar serves, valid and not.

Schemathesis makes them, and checks of each answer that it is none of a broken server (500), and one of those that the
document tells of: status, content type, headers, shape. What the document rules out has to be refused. The sidecar is
a process before a worker without a model, see able_worker.
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
"""Seconds for an answer; all take milliseconds."""
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
    """Its URL. Afterwards it still serves, and has logged no failure."""
    with able_worker.listening() as address, servers.sidecar(address, "--api-key", KEY) as (process, url):
        servers.eventually(lambda: requests.get(f"{url}/readyz", timeout=TIMEOUT).ok)
        yield url
        assert requests.get(f"{url}/readyz", timeout=TIMEOUT).ok
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


class Fuzzer:
    """Of one sidecar, by the document that it serves."""

    def __init__(self, url: str) -> None:
        self.schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        self._session = requests.Session()
        self.asked = 0
        self.accepted = 0

    @property
    def operations(self) -> list[tuple[str, str]]:
        """Method and path of each."""
        found = [result.ok() for result in self.schema.get_all_operations() if isinstance(result, Ok)]
        return [(operation.method.upper(), operation.path) for operation in found]

    def run(self, method: str, path: str, mode: GenerationMode, *, examples: int, number: int = 0) -> None:
        """Raises for an answer that fails a check. `number` seeds the requests."""
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
        def ask(case: Case[Any]) -> None:
            self._ask(case)

        ask()

    def _ask(self, case: Case[Any]) -> None:
        began = time.monotonic()
        answer: Any = case.call_and_validate(
            session=self._session,
            headers={"Authorization": f"Bearer {KEY}"},
            checks=CHECKS,
            timeout=TIMEOUT,
        )
        assert time.monotonic() - began < TIMEOUT
        self.asked += 1
        self.accepted += answer.status_code == 200


@click.command()
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--seed", "number", default=1, show_default=True, help="Of the first round; the next have the next ones.")
def main(minutes: float, number: int) -> None:
    """Asks a sidecar at random, one operation after the other. Stops at the first answer that is wrong."""
    ends = time.monotonic() + minutes * 60
    with sidecar() as url:
        fuzzer = Fuzzer(url)
        while time.monotonic() < ends:
            for method, path in fuzzer.operations:
                for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                    if mode is GenerationMode.NEGATIVE and method == "GET":
                        continue  # there is nothing in it that could be wrong
                    fuzzer.run(method, path, mode, examples=200, number=number)
            number += 1
            click.echo(f"{fuzzer.asked} requests, {fuzzer.accepted} of them accepted; next seed {number}")


if __name__ == "__main__":
    sys.exit(main())
