import pytest

from openai_server.access.cors import Cors

ORIGIN = "https://chat.example.com"


def asks(origin: str | None, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*([] if origin is None else [(b"origin", origin.encode())]), *more]


def test_off() -> None:
    assert Cors(()).headers(asks(ORIGIN)) == {}
    assert Cors(()).preflight("OPTIONS", asks(ORIGIN, (b"access-control-request-method", b"POST"))) is None


def test_an_origin() -> None:
    headers = Cors([ORIGIN]).headers(asks(ORIGIN))
    assert (headers["access-control-allow-origin"], headers["vary"]) == (ORIGIN, "Origin")
    assert "x-ratelimit-remaining-tokens" in headers["access-control-expose-headers"]
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("other", [None, "https://evil.example.com", ORIGIN + ".evil.com", ORIGIN + ":8443", "null"])
def test_another_origin_is_told_nothing_but_that_it_matters(other: str | None) -> None:
    assert Cors([ORIGIN]).headers(asks(other)) == {"vary": "Origin"}
    assert Cors([ORIGIN]).preflight("OPTIONS", asks(other, (b"access-control-request-method", b"POST"))) is None


def test_all_origins() -> None:
    assert Cors(["*"]).headers(asks(ORIGIN))["access-control-allow-origin"] == "*"
    assert Cors(["*"]).headers(asks(None)) == {}


def test_a_preflight() -> None:
    request = asks(
        ORIGIN,
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization,content-type,x-stainless-os"),
    )
    assert Cors([ORIGIN]).preflight("OPTIONS", request) == {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-max-age": "600",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
    }


def test_a_preflight_with_endless_names() -> None:
    request = asks(
        ORIGIN, (b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"x" * 10_000)
    )
    assert Cors([ORIGIN]).preflight("OPTIONS", request) == {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-max-age": "600",
    }


def test_no_preflight() -> None:
    assert Cors([ORIGIN]).preflight("OPTIONS", asks(ORIGIN)) is None
    assert Cors([ORIGIN]).preflight("POST", asks(ORIGIN, (b"access-control-request-method", b"POST"))) is None
