"""The worker's addresses, and how the sidecar reaches them, in networks that have or lack them."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.e2e.servers import Process
from tests.gguf_files import tiny
from tests.networks import LOOPBACK, OTHER_ADDRESSES, Network, network

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="networks of their own are Linux's")

FOUR, SIX = LOOPBACK
OTHER_FOUR, OTHER_SIX = OTHER_ADDRESSES
EVERY = (FOUR, OTHER_FOUR, SIX, OTHER_SIX)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Returns the options for a model that loads at once."""
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    path.write_bytes(tiny().data())
    return "--model", str(path)


@contextmanager
def worker(net: Network, *options: str) -> Iterator[Process]:
    """Yields a worker that is ready, on port 8000 unless `options` set another one."""
    process = Process(*net.prefix, sys.executable, "-m", "anyserve_worker", *options)
    try:
        process.wait_for(r"server: ready: ")
        yield process
    finally:
        assert process.end() == 0


def run_to_end(net: Network, *options: str) -> tuple[int, str]:
    """Returns status and error output of a worker command that ends by itself."""
    command = (*net.prefix, sys.executable, "-m", "anyserve_worker", *options)
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return result.returncode, result.stderr


def listening(net: Network, port: int) -> tuple[str, ...]:
    return tuple(host for host in EVERY if net.listens(host, port))


def healthy(net: Network, port: int, *options: str) -> bool:
    status, output = run_to_end(net, "--healthcheck", "--port", str(port), *options)
    assert (status, output) in ((0, ""), (1, ""))
    return status == 0


def healthy_hosts(net: Network, hosts: Sequence[str], port: int) -> list[str]:
    """Returns the hosts at which `--healthcheck` finds the worker."""
    return [host for host in hosts if healthy(net, port, "--host", host)]


def check_pair(net: Network, endpoint: str, *options: str, at: Sequence[str] = LOOPBACK) -> None:
    """Checks that a sidecar reaches the worker at `endpoint`, and clients reach the sidecar `at` these addresses."""
    command = (*net.prefix, sys.executable, "-m", "openai_server", "--anyserve-endpoint", endpoint, "--port", "8080")
    sidecar = Process(*command, *options)
    try:
        sidecar.wait_for("connected to the backend")
        for host in at:
            status, body = net.get(host, 8080, "/v1/completions", {"prompt": "x", "max_tokens": 1})
            assert (status, b'"choices"' in body) == (200, True), body
    finally:
        assert sidecar.end() == 0


def test_by_default_the_worker_listens_on_both_loopback_addresses(tmp_path: Path, model: tuple[str, str]) -> None:
    with network(tmp_path) as net, worker(net, *model, "--port", "0", "--metrics-port", "0") as process:
        port = int(process.wait_for(rf"listening on {FOUR}:(\d+), \[{SIX}\]:\1 ")[1])
        metrics = int(process.wait_for(rf"metrics=\"?http://{FOUR}:(\d+)/metrics")[1])
        assert listening(net, port) == listening(net, metrics) == LOOPBACK
        assert {net.get(host, metrics, "/metrics")[0] for host in LOOPBACK} == {200}
        assert healthy(net, port)
        assert healthy_hosts(net, (FOUR, SIX, "::", "0.0.0.0", OTHER_FOUR), port) == [FOUR, SIX, "::", "0.0.0.0"]
        assert not healthy(net, metrics + 1)


@pytest.mark.parametrize(
    ("hosts", "expected", "metrics"),
    [
        (("::",), EVERY, EVERY),
        (("0.0.0.0", SIX), EVERY, (FOUR, OTHER_FOUR, SIX)),  # gRPC's 0.0.0.0 includes IPv6
    ],
)
def test_the_worker_listens_on_the_hosts_of_its_options(
    tmp_path: Path, model: tuple[str, str], hosts: tuple[str, ...], expected: tuple[str, ...], metrics: tuple[str, ...]
) -> None:
    options = [word for host in hosts for word in ("--host", host)]
    with network(tmp_path) as net, worker(net, *model, *options, "--metrics-port", "8002"):
        assert listening(net, 8000) == expected
        assert listening(net, 8002) == metrics
        assert healthy_hosts(net, (SIX, OTHER_SIX), 8000) == [host for host in (SIX, OTHER_SIX) if host in expected]
        assert healthy(net, 8000, *options)


def test_metrics_can_have_their_own_addresses(tmp_path: Path, model: tuple[str, str]) -> None:
    options = ("--host", f"{OTHER_FOUR} [{SIX}]", "--metrics-port", "0", "--metrics-host", "::", "--metrics-host", FOUR)
    with network(tmp_path) as net, worker(net, *model, *options) as process:
        metrics = int(process.wait_for(rf"metrics=\"?http://{FOUR}:(\d+)/metrics")[1])
        assert (listening(net, 8000), listening(net, metrics)) == ((OTHER_FOUR, SIX), EVERY)


@pytest.mark.parametrize("hosts", [(), ("--host", "::")])
def test_without_ipv6_the_worker_listens_on_ipv4(
    tmp_path: Path, model: tuple[str, str], hosts: tuple[str, ...]
) -> None:
    with network(tmp_path, ipv6=False) as net, worker(net, *model, *hosts, "--metrics-port", "8002") as process:
        left_out = re.findall("this machine has no IPv6: not listening on (.*)", process.output)
        assert left_out == ["::" if "::" in hosts else SIX]
        assert net.get(FOUR, 8002, "/metrics")[0] == 200
        assert healthy(net, 8000, *hosts)
        check_pair(net, "localhost:8000", at=(FOUR,))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--host", "192.0.2.1"), "can't listen on 192.0.2.1:8000: this machine has no such address"),
        (("--metrics-port", "1", "--metrics-host", SIX), f"can't listen on {SIX}: "),
    ],
)
def test_an_unavailable_address_is_one_line(
    tmp_path: Path, model: tuple[str, str], options: tuple[str, ...], problem: str
) -> None:
    with network(tmp_path, ipv6=False) as net:
        status, output = run_to_end(net, *model, *options)
    assert status == 1
    errors = [line for line in output.splitlines() if " INFO " not in line]
    assert len(errors) == 1
    assert errors[0].startswith(f"Error: {problem}")


@pytest.mark.parametrize(("address", "option"), [(SIX, "--port"), (OTHER_FOUR, "--port"), (SIX, "--metrics-port")])
def test_a_port_in_use_on_one_of_the_addresses_is_an_error(
    tmp_path: Path, model: tuple[str, str], address: str, option: str
) -> None:
    with network(tmp_path) as net, net.listen(address, 8005):
        hosts = () if address in LOOPBACK else ("--host", "::")
        status, output = run_to_end(net, *model, *hosts, option, "8005")
    assert status == 1
    assert re.fullmatch(r"Error: can't listen on \S+:8005: the port is in use\n", output)


def test_tls_is_served_on_both_addresses(tmp_path: Path, model: tuple[str, str]) -> None:
    ca = Authority(tmp_path / "ca")
    certificate, key = ca.issue("worker", SIX)
    tls = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with network(tmp_path) as net, worker(net, *model, *tls):
        assert listening(net, 8000) == LOOPBACK
        assert healthy(net, 8000, *tls)
        for endpoint in (f"[{SIX}]:8000", f"dns:///[{SIX}]:8000"):
            check_pair(net, endpoint, "--backend-tls", "--backend-ca", str(ca.file))
        # A worker with TLS serves its health on this machine under a name that contains its port.
        status, output = run_to_end(net, *model, "--host", OTHER_FOUR, *tls)
    assert (status, output) == (
        1,
        "Error: another worker already serves TLS on port 8000: --healthcheck would check that one\n",
    )
