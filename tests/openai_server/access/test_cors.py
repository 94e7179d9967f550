import pytest

from openai_server.access.cors import Cors

ORIGIN = "https://chat.example.com"


def request_headers(origin: str | None, *more: tuple[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [*([] if origin is None else [(b"origin", origin.encode())]), *more]


def test_without_origins_no_headers_are_sent() -> None:
    assert Cors(()).headers(request_headers(ORIGIN)) == {}
    assert Cors(()).preflight("OPTIONS", request_headers(ORIGIN, (b"access-control-request-method", b"POST"))) is None


def test_an_allowed_origin_gets_the_headers() -> None:
    headers = Cors([ORIGIN]).headers(request_headers(ORIGIN))
    assert (headers["access-control-allow-origin"], headers["vary"]) == (ORIGIN, "Origin")
    assert "x-ratelimit-remaining-tokens" in headers["access-control-expose-headers"]
    exposed = set(headers["access-control-expose-headers"].split(", "))
    assert {"x-request-id", "request-id"} <= exposed
    assert {"content-disposition", "content-range", "etag"} <= exposed, "of the content of a file"
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("other", [None, "https://evil.example.com", ORIGIN + ".evil.com", ORIGIN + ":8443", "null"])
def test_another_origin_gets_only_vary(other: str | None) -> None:
    assert Cors([ORIGIN]).headers(request_headers(other)) == {"vary": "Origin"}
    assert (
        Cors([ORIGIN]).preflight("OPTIONS", request_headers(other, (b"access-control-request-method", b"POST"))) is None
    )


def test_a_wildcard_allows_all_origins() -> None:
    assert Cors(["*"]).headers(request_headers(ORIGIN))["access-control-allow-origin"] == "*"
    assert Cors(["*"]).headers(request_headers(None)) == {}


def test_a_preflight_request_is_answered() -> None:
    request = request_headers(
        ORIGIN,
        (b"access-control-request-method", b"POST"),
        (b"access-control-request-headers", b"authorization,content-type,x-stainless-os"),
    )
    assert Cors([ORIGIN]).preflight("OPTIONS", request) == {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-max-age": "600",
        "access-control-allow-headers": "authorization,content-type,x-stainless-os",
    }


def test_too_long_requested_headers_are_not_repeated() -> None:
    request = request_headers(
        ORIGIN, (b"access-control-request-method", b"POST"), (b"access-control-request-headers", b"x" * 10_000)
    )
    assert Cors([ORIGIN]).preflight("OPTIONS", request) == {
        "access-control-allow-methods": "GET, POST, DELETE",
        "access-control-max-age": "600",
    }


def test_other_requests_are_not_preflights() -> None:
    assert Cors([ORIGIN]).preflight("OPTIONS", request_headers(ORIGIN)) is None
    assert (
        Cors([ORIGIN]).preflight("POST", request_headers(ORIGIN, (b"access-control-request-method", b"POST"))) is None
    )
