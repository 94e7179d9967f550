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
    with (
        able_worker.listening() as address,
        servers.sidecar(address, "--api-key", KEY, "--store", "sqlite://") as (process, url),
    ):
        servers.eventually(lambda: requests.get(f"{url}/readyz", timeout=TIMEOUT).ok)
        yield url
        assert requests.get(f"{url}/readyz", timeout=TIMEOUT).ok
        assert process.end() == 0
        assert "Traceback" not in process.output, process.output


MODEL = "tiny"
"""The model of the fake worker."""
NEED_MODEL = ("/v1/responses/compact",)
"""Paths whose requests must name a model, which no random text does."""


LINE = (
    b'{"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"model": "tiny", "prompt": "hi"}}'
    + b" " * 4000
)
"""The content of files. A part of an upload may have twice this number of bytes."""
CONTINUE = ("previous_response_id", "conversation")
"""Fields that name stored objects, and exclude each other."""


class Fuzzer:
    """Fuzzes one sidecar with the document that it serves."""

    def __init__(self, url: str) -> None:
        self._url = url
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
            if mode is GenerationMode.POSITIVE:
                self._aim(case, path)
            self._send(case)

        send()

    def _aim(self, case: Case[Any], path: str) -> None:
        """Replaces random texts by the names of things that exist, which no random text is."""
        body = case.body
        if path in NEED_MODEL and isinstance(body, dict):
            body["model"] = MODEL
        if "{response_id}" in path:
            case.path_parameters["response_id"] = self._response(background=True)["id"]
        conversation = None
        if "{conversation_id}" in path:
            conversation = self._created("/v1/conversations", {"items": [{"role": "user", "content": "hi", "id": "i"}]})
            case.path_parameters["conversation_id"] = conversation["id"]
            if "{item_id}" in path:
                case.path_parameters["item_id"] = "i"
        if "{file_id}" in path:
            case.path_parameters["file_id"] = self._file()
        if "{upload_id}" in path:
            case.path_parameters["upload_id"] = upload = self._upload()
            if path.endswith("/complete") and isinstance(body, dict):
                body["part_ids"] = [self._sent(f"/v1/uploads/{upload}/parts", {}, "data")["id"]]
                body.pop("md5", None)
        if "{batch_id}" in path:
            new = {"input_file_id": self._file(), "endpoint": "/v1/completions", "completion_window": "24h"}
            case.path_parameters["batch_id"] = self._created("/v1/batches", new)["id"]
        if not isinstance(body, dict):
            return
        if "input_file_id" in body:
            body["input_file_id"] = self._file()
        named = [name for name in CONTINUE if body.get(name) is not None]
        for name in named:
            del body[name]
        if named or (path.startswith("/v1/responses") and not body.get("input")):
            body["previous_response_id"] = self._response()["id"]
        items: Any = body.get("items", body.get("input")) or ()
        references = [item for item in items if isinstance(item, dict) and item.keys() <= {"id", "type"}]
        for item in references:
            if item.get("type") in (None, "item_reference"):
                item["id"] = self._response()["output"][0]["id"]

    def _response(self, **body: object) -> Any:
        return self._created("/v1/responses", {"input": "hi", **body})

    def _file(self) -> str:
        """Returns the id of a new input file for a batch."""
        return str(self._sent("/v1/files", {"purpose": "batch"}, "file")["id"])

    def _upload(self) -> str:
        new = {"bytes": len(LINE), "filename": "f", "mime_type": "text/plain", "purpose": "batch"}
        return str(self._created("/v1/uploads", new)["id"])

    def _created(self, path: str, body: object) -> Any:
        return self._posted(path, json=body)

    def _sent(self, path: str, fields: dict[str, str], name: str) -> Any:
        """Posts a form with LINE as a file."""
        return self._posted(path, data=fields, files={name: ("f", LINE)})

    def _posted(self, path: str, **content: Any) -> Any:
        headers = {"Authorization": f"Bearer {KEY}"}
        response = self._session.post(f"{self._url}{path}", headers=headers, timeout=TIMEOUT, **content)
        response.raise_for_status()
        return response.json()

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
                    if mode is GenerationMode.NEGATIVE and method != "POST":
                        continue  # only bodies have parts that are invalid for certain
                    fuzzer.run(method, path, mode, examples=200, number=number)
            number += 1
            click.echo(f"{fuzzer.n_sent} requests, {fuzzer.n_accepted} of them accepted; next seed {number}")


if __name__ == "__main__":
    sys.exit(main())
