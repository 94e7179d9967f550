"""The addresses that `python -m openai_server` listens on, in networks that have or lack them."""

import json
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.certificates import Authority
from tests.e2e.servers import Process
from tests.networks import LOOPBACK, OTHER_ADDRESSES, Network, network

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="networks of their own are Linux's")]

FOUR, SIX = LOOPBACK
OTHER_FOUR, OTHER_SIX = OTHER_ADDRESSES
EVERY = (FOUR, OTHER_FOUR, SIX, OTHER_SIX)


@contextmanager
def sidecar(net: Network, *options: str, **variables: str) -> Iterator[tuple[Process, int]]:
    """Yields a sidecar that listens, and its port, in a test's network."""
    environment = [f"OPENAI_SERVER_{name}={value}" for name, value in variables.items()]
    process = Process(
        *(*net.prefix, "env", *environment),
        *(sys.executable, "-m", "openai_server", "--port", "0", "--log-format", "json", *options),
    )
    try:
        greeting = json.loads(process.wait_for(r'\{.*"listening on .*\}')[0])
        if "2" in options:  # worker processes
            process.wait_for(r"(?s)has started.*has started")
        yield process, int(re.findall(r":(\d+)/v1$", greeting["api"])[0])
    finally:
        process.end(signal.SIGKILL)


def greeting(process: Process) -> dict[str, str]:
    return dict(json.loads(process.wait_for(r'\{.*"listening on .*\}')[0]))


def failed(net: Network, *options: str) -> tuple[int, str]:
    """Returns status and error output of a sidecar that can't start."""
    command = (*net.prefix, sys.executable, "-m", "openai_server", *options)
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return result.returncode, result.stderr


def listening(net: Network, port: int) -> tuple[str, ...]:
    """Returns the addresses on which the port answers, of all that the network may have."""
    hosts = tuple(host for host in EVERY if net.listens(host, port))
    assert all(net.get(host, port, "/openapi.json")[0] in (200, 404) for host in hosts)
    return hosts


def test_by_default_the_sidecar_answers_on_both_loopback_addresses(tmp_path: Path) -> None:
    with network(tmp_path) as net, sidecar(net, "--workers", "2", "--admin-port", "0") as (process, port):
        line = greeting(process)
        assert line["message"] == f"listening on http://{FOUR}:{port}, http://[{SIX}]:{port}"
        admin = int(re.findall(r":(\d+)/metrics$", line["metrics"])[0])
        assert admin != port
        assert listening(net, port) == listening(net, admin) == LOOPBACK
        assert {net.get(host, admin, "/metrics")[0] for host in LOOPBACK} == {200}
        assert process.end() == 0
        assert "no API key" not in process.output


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        (("::", FOUR, OTHER_SIX, "0.0.0.0"), EVERY),
        (("0.0.0.0", f"[{SIX}]"), (FOUR, OTHER_FOUR, SIX)),
        (("localhost",), LOOPBACK),
        (("name.example",), (OTHER_FOUR, OTHER_SIX)),
    ],
)
def test_the_sidecar_listens_on_the_hosts_of_its_options(
    tmp_path: Path, hosts: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    names = f"{FOUR} localhost\n{OTHER_FOUR} name.example\n{OTHER_SIX} name.example\n"
    options = [word for host in hosts for word in ("--host", host)]
    with network(tmp_path, hosts=names) as net, sidecar(net, *options) as (process, port):
        assert listening(net, port) == expected
        host = re.findall(r"^http://(.*):\d+/v1$", greeting(process)["api"])[0]
        assert host.strip("[]") in expected


def test_the_sidecar_listens_on_the_hosts_in_the_environment(tmp_path: Path) -> None:
    with network(tmp_path) as net, sidecar(net, HOST=f"{SIX}, {OTHER_FOUR}") as (_, port):
        assert listening(net, port) == (OTHER_FOUR, SIX)


def test_the_log_has_the_addresses_of_clients(tmp_path: Path) -> None:
    """An IPv4 client's address isn't mapped to IPv6, and a proxy on either loopback address names its client."""
    request = b"GET /v1/nowhere HTTP/1.1\r\nhost: x\r\nconnection: close\r\n%b\r\n"
    with network(tmp_path) as net, sidecar(net, "--host", "::", "--workers", "2") as (process, port):
        for host in LOOPBACK:
            for header in (b"", b"x-forwarded-for: 192.0.2.7\r\n"):
                with net.connect(host, port) as connection:
                    connection.sendall(request % header)
                    while connection.recv(1000):
                        pass
        process.wait_for(r"(?s)(/v1/nowhere.*){4}")
        lines = [json.loads(line) for line in process.output.splitlines() if "/v1/nowhere" in line]
        assert sorted(line["client"] for line in lines) == sorted((FOUR, SIX, "192.0.2.7", "192.0.2.7"))


@pytest.mark.parametrize(
    ("hosts", "expected", "missing"),
    [((), (FOUR,), SIX), (("::",), (FOUR, OTHER_FOUR), "::")],
)
def test_without_ipv6_the_sidecar_answers_on_ipv4(
    tmp_path: Path, hosts: tuple[str, ...], expected: tuple[str, ...], missing: str
) -> None:
    options = [word for host in hosts for word in ("--host", host)]
    with (
        network(tmp_path, ipv6=False) as net,
        sidecar(net, "--admin-port", "0", *options) as (process, port),
    ):
        assert tuple(host for host in (FOUR, OTHER_FOUR) if net.listens(host, port)) == expected
        (warning,) = [line for line in process.output.splitlines() if "no IPv6" in line]
        assert f"this machine has no IPv6: not listening on {missing}" in warning


def test_without_ipv4_the_sidecar_answers_on_ipv6(tmp_path: Path) -> None:
    with network(tmp_path, ipv4=False) as net, sidecar(net, "--host", "::") as (process, port):
        assert net.get(SIX, port, "/livez")[0] == 200
        assert greeting(process)["api"] == f"http://[{SIX}]:{port}/v1"
        assert "this machine has no IPv4: not listening on 0.0.0.0" in process.output


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (("--host", SIX), f"can't listen on {SIX}: this machine has no such address"),
        (("--host", "192.0.2.1", "--port", "81"), "can't listen on 192.0.2.1:81: this machine has no such address"),
        (("--host", "name.invalid"), "can't listen on 'name.invalid': "),
    ],
)
def test_an_unavailable_address_is_one_line(tmp_path: Path, options: tuple[str, ...], problem: str) -> None:
    with network(tmp_path, ipv6=False) as net:
        status, output = failed(net, *options)
    assert status == 1
    assert output.startswith(f"Error: {problem}")
    assert len(output.splitlines()) == 1


@pytest.mark.parametrize(("address", "option"), [(FOUR, "--port"), (OTHER_SIX, "--port"), (SIX, "--admin-port")])
def test_a_port_in_use_on_one_of_the_addresses_is_an_error(tmp_path: Path, address: str, option: str) -> None:
    with network(tmp_path) as net, net.listen(address, 8085):
        hosts = () if address in LOOPBACK else ("--host", "::")
        status, output = failed(net, *hosts, option, "8085", "--workers", "2")
    assert status == 1
    assert re.fullmatch(r"Error: can't listen on \S+:8085: the port is in use\n", output)


def test_https_is_served_on_both_addresses(tmp_path: Path) -> None:
    certificate, key = Authority(tmp_path / "ca").issue("localhost")
    unverified = ssl._create_unverified_context()
    options = ("--tls-cert", str(certificate), "--tls-key", str(key), "--admin-port", "0")
    with network(tmp_path) as net, sidecar(net, *options) as (process, port):
        for host in LOOPBACK:
            with unverified.wrap_socket(net.connect(host, port)) as connection:
                connection.sendall(b"GET /openapi.json HTTP/1.0\r\n\r\n")
                assert connection.recv(100).startswith(b"HTTP/1.1 200")
        line = greeting(process)
        assert line["message"] == f"listening on https://{FOUR}:{port}, https://[{SIX}]:{port}"
        health = re.findall(r"^http://127\.0\.0\.1:(\d+)/metrics$", line["metrics"])  # the metrics port has no TLS
        assert net.get(SIX, int(health[0]), "/metrics")[0] == 200


@pytest.mark.parametrize("localhost", [(SIX, FOUR), (FOUR,)])
def test_endpoints_reach_a_backend_that_listens_on_one_address(tmp_path: Path, localhost: tuple[str, ...]) -> None:
    """Even if that address is not the first, or not among those, that the machine's resolver returns for
    `localhost`."""
    names = "".join(f"{address} localhost\n" for address in localhost)
    expected = {"localhost:8000": 2, "localhost:8001": 2, f"{FOUR}:8000": 1, f"[{SIX}]:8001": 2}
    endpoints = ("localhost:8000", "localhost:8001", f"{FOUR}:8000", f"[{SIX}]:8001")
    by_name = ("dns:///localhost:8000", "dns:///localhost:8001", f"dns:///[{SIX}]:8001")
    options = [word for endpoint in (*endpoints, *by_name) for word in ("--anyserve-endpoint", endpoint)]
    with network(tmp_path, hosts=names) as net:
        backend = Process(*net.prefix, sys.executable, "-m", "tests.wire.fake_backend", f"{FOUR}:8000", f"[{SIX}]:8001")
        try:
            backend.wait_for("ready")
            with sidecar(net, *options) as (process, port):
                for target, times in expected.items():
                    process.wait_for(f"(?s)(connected to the backend {re.escape(target)}.*){{{times}}}")
                for _ in range(sum(expected.values())):  # the backends take turns
                    assert net.get(SIX, port, "/v1/completions", {"prompt": "x"})[0] == 200
        finally:
            backend.end(signal.SIGKILL)
