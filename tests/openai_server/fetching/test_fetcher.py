import zlib
from collections.abc import Sequence
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext

import pytest

from openai_server.fetching.errors import NotFetched
from openai_server.fetching.fetcher import NO_HOST, NOT_REACHED, Fetcher, Resolve
from openai_server.fetching.urls import parsed_prefix
from tests.certificates import Authority
from tests.openai_server.fetching.hosts import response, serving

HOST = "files.example.com"


def resolver(*addresses: str) -> Resolve:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


def fetcher(prefix: str, *addresses: str, **settings: object) -> Fetcher:
    """A fetcher for which the host has these addresses, all of which are allowed."""
    options: dict[str, object] = {"max_bytes": 1000, "is_allowed_address": lambda _: True, **settings}
    return Fetcher([parsed_prefix(prefix)], resolve=resolver(*(addresses or ("127.0.0.1",))), **options)  # type: ignore[arg-type]


async def test_a_file_is_fetched_from_the_checked_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    async with serving({"/a.txt?b=c": response(b"hello")}) as host:
        url = f"http://{HOST}:{host.port}/a.txt?b=c"
        fetched = await fetcher(f"http://{HOST}:{host.port}/").fetch(url, "caller")
        assert (fetched.data, str(fetched.url)) == (b"hello", url)
        [head] = host.requests
        assert f"host: {HOST}:{host.port}\r\n" in head
        assert "accept-encoding: identity\r\n" in head
        for name in ("cookie", "authorization", "referer"):
            assert f"{name}:" not in head.lower()


async def test_the_certificate_must_be_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path / "ca")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    tls = SSLContext(PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*authority.issue(HOST))
    async with serving({"/": response(b"hello")}, tls) as host:
        with pytest.raises(NotFetched, match=NOT_REACHED):
            await fetcher(f"https://other.example.com:{host.port}").fetch(
                f"https://other.example.com:{host.port}/", "caller"
            )
        fetched = await fetcher(f"https://{HOST}:{host.port}").fetch(f"https://{HOST}:{host.port}/", "caller")
        assert fetched.data == b"hello"


@pytest.mark.parametrize(
    "addresses",
    [
        ("127.0.0.1",),
        ("::1",),
        ("169.254.169.254",),
        ("10.0.0.1",),
        ("93.184.216.34", "10.0.0.1"),
        ("::ffff:127.0.0.1",),
        (),
    ],
)
async def test_a_host_with_an_inner_address_is_refused(addresses: Sequence[str]) -> None:
    fetch = Fetcher([parsed_prefix("http://evil.com")], max_bytes=9, resolve=resolver(*addresses)).fetch
    with pytest.raises(NotFetched) as caught:
        await fetch("http://evil.com/", "caller")
    assert caught.value.reason == NO_HOST


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254", "10.0.0.1", "2130706433"]
)
async def test_inner_addresses_in_urls_are_refused(host: str) -> None:
    """With the real resolver."""
    with pytest.raises(NotFetched) as caught:
        await Fetcher([parsed_prefix(f"http://{host}/")], max_bytes=9).fetch(f"http://{host}/", "caller")
    assert caught.value.reason in (NO_HOST, NOT_REACHED)


async def test_localhost_is_refused_by_the_real_resolver() -> None:
    with pytest.raises(NotFetched, match=NO_HOST):
        await Fetcher([parsed_prefix("http://localhost:1/")], max_bytes=9).fetch("http://localhost:1/", "caller")


async def test_only_urls_below_a_prefix_are_fetched() -> None:
    for url in ("http://evil.com/", f"http://{HOST}/", "file:///etc/passwd", "http://a@b/"):
        with pytest.raises(NotFetched):
            await fetcher("http://allowed.com/").fetch(url, "caller")


# ---- Redirects


async def test_redirects_are_followed_within_the_prefix() -> None:
    async with serving({"/c": response(b"hello")}) as host:
        there = f"http://{HOST}:{host.port}"
        host.responses["/a"] = response(b"", "302 Found", "location: b")
        host.responses["/b"] = response(b"", "307 Temporary Redirect", f"location: {there}/c")
        fetched = await fetcher(there).fetch(f"{there}/a", "caller")
    assert (fetched.data, fetched.url.path) == (b"hello", "/c")


async def test_redirects_are_counted() -> None:
    async with serving({"/": response(b"", "302 Found", "location: /")}) as host:
        there = f"http://{HOST}:{host.port}/"
        with pytest.raises(NotFetched, match="redirects more than 3 times"):
            await fetcher(there).fetch(there, "caller")
        assert len(host.requests) == 4


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data",
        "http://127.0.0.1/",
        "https://evil.com/",
        "/private",
        "/public/../private",
        "//evil.com/public/",
        "file:///etc/passwd",
        "http://[",
        "",
    ],
)
async def test_redirects_to_other_places_are_refused(location: str) -> None:
    async with serving({"/public/": response(b"", "302 Found", f"location: {location}")}) as host:
        there = f"http://{HOST}:{host.port}/public/"
        with pytest.raises(NotFetched):
            await fetcher(there).fetch(there, "caller")
        assert len(host.requests) <= 4


async def test_the_addresses_of_a_redirect_are_checked_too() -> None:
    hosts = {HOST: ["127.0.0.1"], "inner.example.com": ["10.0.0.1"]}

    async def resolve(host: str, port: int) -> Sequence[str]:
        return hosts[host]

    async with serving({"/": response(b"", "302 Found", "location: http://inner.example.com/")}) as host:
        there = f"http://{HOST}:{host.port}/"
        prefixes = [parsed_prefix(there), parsed_prefix("http://inner.example.com")]
        fetch = Fetcher(prefixes, max_bytes=9, resolve=resolve, is_allowed_address=lambda text: text == "127.0.0.1")
        with pytest.raises(NotFetched) as caught:
            await fetch.fetch(there, "caller")
    assert caught.value.reason == NO_HOST


async def test_a_name_is_resolved_once_for_each_request() -> None:
    """A name server that answers differently each time can't exchange the checked address."""
    names = []

    async def resolve(host: str, port: int) -> Sequence[str]:
        names.append(host)
        return ["127.0.0.1"] if len(names) == 1 else ["10.0.0.1"]

    async with serving({"/": response(b"hello")}) as host:
        there = f"http://{HOST}:{host.port}/"
        fetch = Fetcher([parsed_prefix(there)], max_bytes=9, resolve=resolve, is_allowed_address=lambda _: True)
        assert (await fetch.fetch(there, "caller")).data == b"hello"
    assert names == [HOST]


# ---- What hosts send

GZIP = zlib.compressobj(wbits=31)
BOMB = GZIP.compress(b"\0" * (1 << 20)) + GZIP.flush()


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (response(b"a" * 1001), "has more than 1000 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"a" * 1001, "has more than 1000 bytes"),
        (response(BOMB, "200 OK", "content-encoding: gzip"), "compressed form"),
        (response(b"secret", "404 Not Found"), "responded with status 404"),
        (response(b"secret", "500 Internal Server Error"), "responded with status 500"),
        (response(b"", "304 Not Modified"), "responded with status 304"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nabc", NOT_REACHED),
        (b"SSH-2.0-OpenSSH_9.2\r\n", NOT_REACHED),
        (b"", NOT_REACHED),
    ],
)
async def test_what_is_no_file(sent: bytes, reason: str) -> None:
    async with serving({"/": sent}) as host:
        there = f"http://{HOST}:{host.port}/"
        with pytest.raises(NotFetched, match=reason) as caught:
            await fetcher(there).fetch(there, "caller")
    assert "127.0.0.1" not in caught.value.reason
    assert "secret" not in caught.value.reason


async def test_a_host_has_limited_time() -> None:
    async with serving({"/ready": response()}) as host:
        there = f"http://{HOST}:{host.port}/"
        await fetcher(there).fetch(f"{there}ready", "caller")
        with pytest.raises(NotFetched, match="took more than"):
            await fetcher(there, seconds=0.3).fetch(there, "caller")


async def test_another_address_is_tried_if_nothing_listens() -> None:
    async with serving({"/": response(b"hello")}) as host:
        there = f"http://{HOST}:{host.port}/"
        fetched = await fetcher(there, "127.0.0.2", "127.0.0.1").fetch(there, "caller")
        assert fetched.data == b"hello"


async def test_a_host_that_cannot_be_reached() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError("no such name")

    there = f"http://{HOST}:1/"
    for fetch in (fetcher(there), Fetcher([parsed_prefix(there)], max_bytes=9, resolve=resolve)):
        with pytest.raises(NotFetched) as caught:
            await fetch.fetch(there, "caller")
        assert caught.value.reason == NOT_REACHED
