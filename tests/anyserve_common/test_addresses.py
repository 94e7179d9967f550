"""What networks of a test's own can't show: kernels without an address family, and ports that are free on one only."""

import errno
import logging
import socket
from typing import Any

import pytest

from anyserve_common import addresses
from anyserve_common.addresses import AddressError


def without(monkeypatch: pytest.MonkeyPatch, lacking: socket.AddressFamily) -> None:
    """As under a kernel that was built or started without the family, or systemd's RestrictAddressFamilies."""
    real = socket.socket

    def open(family: int = socket.AF_INET, *args: Any, **how: Any) -> socket.socket:
        if family == lacking:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **how)

    monkeypatch.setattr(socket, "socket", open)


@pytest.mark.parametrize(
    ("hosts", "left", "line"),
    [
        (addresses.LOOPBACK, ["127.0.0.1"], "this machine has no IPv6: ::1 is left out"),
        (("::",), ["0.0.0.0"], "this machine has no IPv6: :: is left out"),
    ],
)
def test_a_family_that_the_kernel_lacks(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hosts: tuple[str, ...],
    left: list[str],
    line: str,
) -> None:
    caplog.set_level(logging.INFO)
    without(monkeypatch, socket.AF_INET6)
    assert addresses.usable(hosts) == left
    assert caplog.messages == [line]


def test_a_kernel_without_the_only_family(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, socket.AF_INET6)
    with pytest.raises(AddressError, match="can't listen on ::1: this machine has no such address"):
        addresses.usable(["::1"])
    assert addresses.usable(["127.0.0.1"]) == ["127.0.0.1"]


def test_port_0_is_one_that_is_free_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = addresses._bound, [errno.EADDRINUSE] * 3

    def bound(address: str, port: int) -> socket.socket:
        if address == "127.0.0.2" and refusals:
            raise OSError(refusals.pop(), "taken")
        return real(address, port)

    monkeypatch.setattr(addresses, "_bound", bound)
    sockets = addresses.listen(["127.0.0.1", "127.0.0.2"], 0)
    assert not refusals
    assert len({one.getsockname()[1] for one in sockets}) == 1
    for one in sockets:
        one.close()


def test_ports_that_are_never_free_on_all_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    real = addresses._bound

    def bound(address: str, port: int) -> socket.socket:
        if address == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "taken")
        return real(address, port)

    monkeypatch.setattr(addresses, "_bound", bound)
    with pytest.raises(AddressError, match=r"can't listen on 127\.0\.0\.2:\d+: the port is in use"):
        addresses.bind(["127.0.0.1", "127.0.0.2"], 0)


@pytest.mark.parametrize(
    ("hosts", "found"),
    [
        (["localhost"], ["127.0.0.1", "::1"]),
        (["LOCALHOST", "::1"], ["127.0.0.1", "::1"]),
        (["[::1]"], ["::1"]),
        (["0:0:0:0:0:0:0:0"], ["0.0.0.0", "::"]),
        (["127.0.0.1", "::", "0.0.0.0", "fd00::1"], ["0.0.0.0", "::"]),
        (["0.0.0.0", "127.0.0.1", "::1"], ["0.0.0.0", "::1"]),
        (["::1", "127.0.0.1", "::1"], ["::1", "127.0.0.1"]),
    ],
)
def test_hosts_to_addresses(hosts: list[str], found: list[str]) -> None:
    assert addresses.resolve(hosts) == found


@pytest.mark.parametrize("host", ["a..b", "name.invalid", "*"])
def test_a_host_that_is_no_name(host: str) -> None:
    with pytest.raises(AddressError, match="can't listen on "):
        addresses.resolve([host])
