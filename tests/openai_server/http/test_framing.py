"""The rules for request heads; tests/wire/test_rfc9112.py tests them on sockets."""

import pytest

from openai_server.core.errors import APIError
from openai_server.http.framing import MAX_TARGET_BYTES, check, parser_error, without_upgrade

HOST = (b"host", b"x")


@pytest.mark.parametrize(
    ("method", "target", "origin_form"),
    [
        (b"GET", b"/", b"/"),
        (b"GET", b"//a//b?c=%20", b"//a//b?c=%20"),
        (b"GET", b"/" + b"a" * (MAX_TARGET_BYTES - 1), b"/" + b"a" * (MAX_TARGET_BYTES - 1)),
        (b"POST", b"http://x", b"/"),
        (b"POST", b"HTTPS://x:443/a?b", b"/a?b"),
        (b"POST", b"http://[::1]?b", b"/?b"),
        (b"OPTIONS", b"*", b"*"),
    ],
)
def test_a_target_becomes_origin_form(method: bytes, target: bytes, origin_form: bytes) -> None:
    assert check(method, "1.1", target, [HOST]) == (origin_form, False)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        *((target, 400) for target in (b"*", b"x:80", b"http:///a", b"ws://x/", b"/%", b"/#")),
        *((prefix + b"a" * MAX_TARGET_BYTES, 414) for prefix in (b"/", b"http://x/")),
    ],
)
def test_an_invalid_target_is_rejected(target: bytes, status: int) -> None:
    with pytest.raises(APIError) as caught:
        check(b"GET", "1.1", target, [HOST])
    assert caught.value.status == status


@pytest.mark.parametrize(("version", "waits"), [("1.1", True), ("1.3", True), ("1.0", False)])
def test_only_a_client_of_http_1_1_waits_for_100_continue(version: str, waits: bool) -> None:
    assert check(b"POST", version, b"/", [HOST, (b"expect", b"100-CONTINUE ")]) == (b"/", waits)


def test_a_host_is_a_name_or_an_address_of_bounded_length() -> None:
    for host in (b"", b"a_b.c", b"a:", b"a:80 ", b"[::1]", b"[fe80::1]:80", b"a" * 253 + b":65535"):
        assert check(b"GET", "1.1", b"/", [(b"host", host)])
    for host in (b"a b", b"a/b", b"@", b"[::1", b"a:b", b"\xe9", b"a" * 301):
        with pytest.raises(APIError, match="has no valid host"):
            check(b"GET", "1.1", b"/", [(b"host", host)])


def test_only_the_upgrade_is_removed_from_a_head() -> None:
    headers = [HOST, (b"upgrade", b"h2c"), (b"connection", b"close, upgrade"), (b"a", b""), (b"upgrade", b"b")]
    head = without_upgrade(b"POST", b"/a?b", "1.0", headers)
    assert head == b"POST /a?b HTTP/1.0\r\nhost: x\r\nconnection: close, upgrade\r\na: \r\n\r\n"


def test_errors_of_the_parser_have_a_reason() -> None:
    error = parser_error("Invalid character in chunk size")
    assert (error.status, error.code) == (400, "invalid_http")
    assert error.message == "The request is not valid HTTP: Invalid character in chunk size."
    assert parser_error("Pause on PRI/Upgrade").status == 505
