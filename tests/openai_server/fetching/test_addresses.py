import pytest

from openai_server.fetching.addresses import is_allowed


@pytest.mark.parametrize("address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses(address: str) -> None:
    assert is_allowed(address)
    assert is_allowed(address, allows_private=True)


@pytest.mark.parametrize(
    "address", ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fd00::1", "::ffff:10.0.0.1"]
)
def test_private_addresses_need_the_option(address: str) -> None:
    assert not is_allowed(address)
    assert is_allowed(address, allows_private=True)


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1", "0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0"),
        *("169.254.169.254", "::ffff:169.254.169.254", "fe80::1", "fe80::1%1", "fd00::1%1"),
        *("224.0.0.1", "239.255.255.250", "ff02::1", "240.0.0.1", "255.255.255.255"),
        *("100.64.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "2001:db8::1"),
        *("64:ff9b::8.8.8.8", "64:ff9b::10.0.0.1", "64:ff9b:1::1", "2002:0a00:0001::1", "2001:0:0a00:1::1"),
        *("168.63.129.16", "::ffff:168.63.129.16", "192.0.0.192", "192.88.99.1", "3fff::1"),
        *("fd00:ec2::254", "fd20:ce::254"),
        *("::10.0.0.1", "::8.8.8.8", "fec0::1", "", "localhost", "0x7f000001", "127.1", "1.2.3.4.5"),
    ],
)
def test_addresses_that_are_never_connected_to(address: str) -> None:
    assert not is_allowed(address)
    assert not is_allowed(address, allows_private=True)
