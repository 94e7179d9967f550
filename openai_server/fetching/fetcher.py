"""Fetches URLs: the only module of the sidecar that uses an HTTP client.

A host's name is resolved once. All of its addresses are checked, and the connection goes to the checked address itself,
so that a name server can't exchange it in between.
"""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urljoin

from openai_server.access.turns import Turns
from openai_server.fetching.addresses import is_allowed as is_allowed_address
from openai_server.fetching.errors import NotFetched
from openai_server.fetching.urls import BadUrl, Url, is_allowed, parsed

if TYPE_CHECKING:
    import ssl

    import httpx

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
SECONDS = 10.0
"""Time for one file, with its redirects."""
CONNECTIONS = 8
"""Maximum number of files that are fetched at a time, for each serving process."""
MAX_WAITING = 64
"""Maximum number of files in the queue for that."""
MAX_ADDRESSES = 3
"""Addresses of a host to try."""
NOT_REACHED = "the file could not be fetched"
TOO_SLOW = f"fetching the file took more than {SECONDS:g} seconds"
NO_HOST = "this server doesn't connect to that host"
NOT_ALLOWED = "this server is not allowed to read files from there"
ENCODED = "the host sent the file in a compressed form that this server didn't request"

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Returns the addresses of a host. Raises OSError."""


class Fetched(NamedTuple):
    data: bytes
    url: Url
    """The place of the file, after redirects."""


class Fetcher:
    """Fetches files below the `prefixes`. Callers take turns."""

    def __init__(
        self,
        prefixes: Sequence[Url],
        *,
        max_bytes: int,
        allows_private: bool = False,
        resolve: Resolve | None = None,
        is_allowed_address: Callable[[str], bool] | None = None,
        seconds: float = SECONDS,
    ) -> None:
        self._prefixes = prefixes
        self._max_bytes = max_bytes
        self._resolve = resolve or _resolved
        self._is_allowed_address = is_allowed_address or (lambda address: _is_allowed_address(address, allows_private))
        self._seconds = seconds
        self._turns = Turns(CONNECTIONS, waiting=MAX_WAITING, queue_timeout=seconds)
        self._tls: ssl.SSLContext | None = None

    async def fetch(self, text: str, caller: str) -> Fetched:
        """Raises NotFetched and Overloaded."""
        url = self._checked(text)
        ticket = await self._turns.take(caller)
        try:
            async with asyncio.timeout(self._seconds):
                return await self._followed(url)
        except TimeoutError:
            raise NotFetched(TOO_SLOW) from None
        finally:
            self._turns.give_back(ticket)

    def _checked(self, text: str) -> Url:
        """Raises NotFetched."""
        try:
            url = parsed(text)
        except BadUrl as error:
            raise NotFetched(str(error)) from None
        if not any(is_allowed(url, prefix) for prefix in self._prefixes):
            raise NotFetched(NOT_ALLOWED)
        return url

    async def _followed(self, url: Url) -> Fetched:
        for _ in range(MAX_REDIRECTS + 1):
            found = await self._exchange(url)
            if not isinstance(found, str):
                return Fetched(found, url)
            url = self._checked(_joined(url, found))
        raise NotFetched(f"the URL redirects more than {MAX_REDIRECTS} times")

    async def _exchange(self, url: Url) -> bytes | str:
        """The content, or the URL that a redirect names. Raises NotFetched."""
        import httpx  # few servers need it

        failure: Exception | None = None
        for address in await self._addresses(url):
            try:
                return await self._sent(url, address)
            except httpx.ConnectError as error:
                failure = error
            except httpx.HTTPError as error:
                failure = error
                break
        log.info("a file could not be fetched from %s: %r", url.authority, failure)
        raise NotFetched(NOT_REACHED) from failure

    async def _addresses(self, url: Url) -> Sequence[str]:
        """The addresses to connect to. Raises NotFetched, also if one of the host's addresses isn't allowed."""
        try:
            addresses = await self._resolve(url.host.strip("[]"), url.port)
        except OSError as error:
            log.info("the host %s of a file can't be resolved: %s", url.host, error)
            raise NotFetched(NOT_REACHED) from error
        if not addresses or not all(map(self._is_allowed_address, addresses)):
            raise NotFetched(NO_HOST)
        return addresses[:MAX_ADDRESSES]

    async def _sent(self, url: Url, address: str) -> bytes | str:
        """The result of a request to this address. Raises httpx.HTTPError and NotFetched."""
        import httpx

        host = f"[{address}]" if ":" in address else address
        target = f"{url.scheme}://{host}:{url.port}{url.path}{url.query}"
        headers = {"host": url.authority, "accept-encoding": "identity", "user-agent": "anyserve"}
        extensions = {"sni_hostname": url.host.strip("[]")}
        async with (
            # Connections are not kept: they belong to an address, whose certificate is for one of its names.
            httpx.AsyncClient(verify=await self._tls_context(url), trust_env=False, timeout=self._seconds) as client,
            client.stream("GET", target, headers=headers, extensions=extensions) as response,
        ):
            if response.has_redirect_location:
                return str(response.headers["location"])
            if not response.is_success:
                raise NotFetched(f"{NOT_REACHED}: the host responded with status {response.status_code}")
            return await self._body(response)

    async def _body(self, response: "httpx.Response") -> bytes:
        """Raises httpx.HTTPError and NotFetched."""
        if response.headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
            raise NotFetched(ENCODED)
        body = bytearray()
        async for piece in response.aiter_raw():
            body += piece
            if len(body) > self._max_bytes:
                raise NotFetched(f"the file has more than {self._max_bytes} bytes, this server's limit")
        return bytes(body)

    async def _tls_context(self, url: Url) -> "ssl.SSLContext | bool":
        """The certificate authorities that are trusted; loading them takes many milliseconds."""
        import httpx

        if url.scheme == "http":
            return False
        if self._tls is None:
            self._tls = await asyncio.to_thread(httpx.create_ssl_context)
        return self._tls


def _joined(url: Url, location: str) -> str:
    """The URL of a redirect; empty if it has none."""
    try:
        return urljoin(str(url), location)
    except ValueError:
        return ""


def _is_allowed_address(address: str, allows_private: bool) -> bool:
    return is_allowed_address(address, allows_private=allows_private)


async def _resolved(host: str, port: int) -> Sequence[str]:
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
