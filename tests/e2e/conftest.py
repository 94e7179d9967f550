"""One pair of worker and sidecar with both models, for all tests that need no options of their own."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.models import gemma3_path, smollm2_path

SMOLLM2 = "smollm2"
GEMMA3 = "gemma3"


@dataclass(frozen=True)
class Pair:
    worker: str
    """host:port"""
    url: str
    """The sidecar's base URL, without /v1."""


@pytest.fixture(scope="session")
def worker_address() -> Iterator[str]:
    with servers.worker(
        "--model", f"{SMOLLM2}={smollm2_path()}", "--model", f"{GEMMA3}={gemma3_path()}", "--n-ctx", "2048"
    ) as (_, address):
        yield address


@pytest.fixture(scope="session")
def exact_address() -> Iterator[str]:
    """Starts a worker that computes equal requests in the same way, so that whole texts can be compared.

    Elsewhere they can't: which tokens share a batch, and where their KV cells are, changes the last bits of a logit.
    """
    with servers.worker(
        "--model",
        f"{SMOLLM2}={smollm2_path()}",
        "--model",
        f"{GEMMA3}={gemma3_path()}",
        "--n-ctx",
        "2048",
        "--parallel",
        "1",
        "--no-prefix-cache",
        "--threads",
        "1",
    ) as (_, address):
        yield address


@pytest.fixture(scope="session")
def exact_service(exact_address: str) -> Iterator[GRPCInferenceServiceStub]:
    with servers.stub(exact_address) as stub:
        yield stub


@pytest.fixture(scope="session")
def exact_pair(exact_address: str) -> Iterator[Pair]:
    with servers.sidecar(exact_address) as (_, url):
        yield Pair(exact_address, url)


@pytest.fixture(scope="session")
def service(worker_address: str) -> Iterator[GRPCInferenceServiceStub]:
    with servers.stub(worker_address) as stub:
        yield stub


@pytest.fixture(scope="session")
def pair(worker_address: str) -> Iterator[Pair]:
    with servers.sidecar(worker_address) as (_, url):
        yield Pair(worker_address, url)
