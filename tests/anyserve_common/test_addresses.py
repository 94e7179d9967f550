"""Cases that a test's own network can't show: kernels without an address family, and ports free on one address only."""

import errno
import logging
import socket
from typing import Any

import pytest

from anyserve_common import addresses
from anyserve_common.addresses import AddressError


def without(monkeypatch: pytest.MonkeyPatch, lacking: socket.AddressFamily) -> None:
    """Makes sockets fail as under a kernel that lacks the family, or under systemd's RestrictAddressFamilies."""
    real = socket.socket

    def open(family: int = socket.AF_INET, *args: Any, **how: Any) -> socket.socket:
        if family == lacking:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *args, **how)

    monkeypatch.setattr(socket, "socket", open)


@pytest.mark.parametrize(
    ("hosts", "expected", "line"),
    [
        (addresses.LOOPBACK, ["127.0.0.1"], "this machine has no IPv6: not listening on ::1"),
        (("::",), ["0.0.0.0"], "this machine has no IPv6: not listening on ::"),
    ],
)
def test_an_address_of_a_family_that_the_kernel_lacks_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    hosts: tuple[str, ...],
    expected: list[str],
    line: str,
) -> None:
    caplog.set_level(logging.INFO)
    without(monkeypatch, socket.AF_INET6)
    assert addresses.usable(hosts) == expected
    assert caplog.messages == [line]


def test_an_address_of_the_only_missing_family_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, socket.AF_INET6)
    with pytest.raises(AddressError, match="can't listen on ::1: this machine has no such address"):
        addresses.usable(["::1"])
    assert addresses.usable(["127.0.0.1"]) == ["127.0.0.1"]


def test_port_0_picks_a_port_that_is_free_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    real, refusals = addresses._bound, [errno.EADDRINUSE] * 3

    def bound(address: str, port: int) -> socket.socket:
        if address == "127.0.0.2" and refusals:
            raise OSError(refusals.pop(), "taken")
        return real(address, port)

    monkeypatch.setattr(addresses, "_bound", bound)
    sockets = addresses.listen(["127.0.0.1", "127.0.0.2"], 0)
    assert not refusals
    assert len({listener.getsockname()[1] for listener in sockets}) == 1
    for listener in sockets:
        listener.close()


def test_it_is_an_error_if_no_port_is_free_on_all_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    real = addresses._bound

    def bound(address: str, port: int) -> socket.socket:
        if address == "127.0.0.2":
            raise OSError(errno.EADDRINUSE, "taken")
        return real(address, port)

    monkeypatch.setattr(addresses, "_bound", bound)
    with pytest.raises(AddressError, match=r"can't listen on 127\.0\.0\.2:\d+: the port is in use"):
        addresses.bind(["127.0.0.1", "127.0.0.2"], 0)


@pytest.mark.parametrize(
    ("hosts", "expected"),
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
def test_hosts_resolve_to_addresses_without_duplicates(hosts: list[str], expected: list[str]) -> None:
    assert addresses.resolve(hosts) == expected


@pytest.mark.parametrize("host", ["a..b", "name.invalid", "*"])
def test_a_host_that_does_not_resolve_is_an_error(host: str) -> None:
    with pytest.raises(AddressError, match="can't listen on "):
        addresses.resolve([host])
