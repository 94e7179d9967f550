"""Sends requests to an upstream: the only module that uses an HTTP client.

A response is closed, and with it its connection, when its `async with` block is left, so that a client that leaves ends
the upstream's work.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx

from anyserve_worker.pipelines.core.errors import PipelineError, TimedOut, UpstreamAway, UpstreamFailed
from anyserve_worker.pipelines.upstream.failures import AWAY_STATUSES, BUSY_STATUS, MAX_ERROR, retry_after
from anyserve_worker.pipelines.upstream.scrubbing import scrub
from anyserve_worker.pipelines.upstream.settings import ApiKey, Timeouts

FORWARDED = ("x-request-id", "traceparent", "tracestate")
"""Headers of a request to this worker that its upstream gets."""
DRAIN_SECONDS = 0.05
"""Time for the end of an answer to arrive after its end mark; a connection with unread data can't be used again."""
IDLE_CONNECTIONS = 64
"""Connections with TLS that are kept for further requests."""
FIRST_PAUSE = 0.2
"""Seconds before the second attempt to connect, doubled before each further one."""
CHECK_SECONDS = 10.0
"""Limit for a check of the upstream."""

LOCALHOST = "localhost"
"""A name that resolvers turn into only one of its addresses, where a server may listen at the other."""
_NOT_CONNECTED = (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError)

_log = logging.getLogger(__name__)
logging.getLogger("httpx").setLevel(logging.WARNING)  # its lines have whole URLs


@dataclass(frozen=True, slots=True)
class Target:
    base_url: str
    key: ApiKey = field(default_factory=ApiKey)
    key_header: str = "Authorization"
    key_prefix: str = "Bearer "
    headers: Mapping[str, str] = field(default_factory=dict)
    secrets: tuple[str, ...] = ()
    """Values in `headers` that no text may repeat."""
    timeouts: Timeouts = field(default_factory=Timeouts)
    retries: int = 0
    max_retry_wait: float = 5
    """Seconds."""
    user_agent: str = "anyserve"


class Response:
    """The response to a request, read piece by piece within the time limits."""

    def __init__(self, response: httpx.Response, gap: float, first_byte_at: float, end_at: float) -> None:
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self._pieces = response.aiter_bytes()
        self._response = response
        self._gap = gap
        self._limit = first_byte_at
        """The loop's time at which the next piece is too late."""
        self._end_at = end_at

    @property
    def is_json(self) -> bool:
        return self.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"

    def retry_after(self) -> float | None:
        """Seconds after which to try again; None: not sent."""
        return retry_after(self.headers, time.time())

    async def read(self, limit: float | None = None) -> bytes:
        """The next piece of the body; empty: the body is complete. `limit`: seconds, instead of the target's. Raises
        TimedOut and UpstreamFailed."""
        loop = asyncio.get_running_loop()
        at = min(self._limit if limit is None else loop.time() + limit, self._end_at)
        try:
            async with asyncio.timeout_at(at):
                piece = await anext(self._pieces, b"")
        except TimeoutError:
            raise TimedOut("The upstream didn't go on with its answer in time.") from None
        except (httpx.HTTPError, httpx.StreamError):
            raise UpstreamFailed("The upstream's connection broke before the end of its answer.") from None
        self._limit = loop.time() + self._gap
        return piece

    async def read_all(self, max_bytes: int) -> bytes:
        """The body, cut off after `max_bytes`. A piece may be much longer: it is decompressed."""
        pieces, n_bytes = [], 0
        while n_bytes < max_bytes and (piece := await self.read()):
            pieces.append(piece)
            n_bytes += len(piece)
        return b"".join(pieces)[:max_bytes]

    async def drain(self) -> None:
        """Waits shortly for the end of a body of which nothing more is expected."""
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                while await self.read():
                    pass
        except (TimeoutError, PipelineError):
            pass

    async def close(self) -> None:
        await self._pieces.aclose()  # type: ignore[attr-defined]  # an async generator
        await self._response.aclose()


class UpstreamClient:
    """Connections to one upstream. Created and closed on the event loop."""

    def __init__(self, target: Target) -> None:
        """Raises ValueError, whose text has no secret."""
        self._target = target
        try:
            _ = httpx.URL(target.base_url).host
        except (httpx.InvalidURL, ValueError):
            raise ValueError("base_url must be an http or https URL") from None
        # Small servers close a connection after an answer without announcing it. A request that meets this must not be
        # repeated, so without TLS, where a connection costs little, each request has one of its own.
        n_idle = IDLE_CONNECTIONS if target.base_url.startswith("https:") else 0
        try:
            self._http = httpx.AsyncClient(
                headers={"User-Agent": target.user_agent, "Accept-Encoding": "identity"},
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
                timeout=httpx.Timeout(None, connect=target.timeouts.connect),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=n_idle, keepalive_expiry=5),
                follow_redirects=False,
                trust_env=not _is_loopback(target.base_url),
            )
        except (ImportError, ValueError, httpx.InvalidURL):
            raise ValueError(
                "the proxies of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY) must be http or https URLs"
            ) from None
        self._is_localhost = urlsplit(target.base_url).hostname == LOCALHOST
        self._localhost = ["127.0.0.1", "::1"]

    async def close(self) -> None:
        await self._http.aclose()

    def scrub(self, text: str) -> str:
        """The text without this upstream's secrets, as a short line."""
        try:
            key = self._target.key.value()
        except ValueError:
            key = ""
        return scrub(text, (key, *self._target.secrets))

    @asynccontextmanager
    async def post(
        self, path: str, body: bytes, headers: Mapping[str, str], *, streams: bool
    ) -> AsyncIterator[Response]:
        """Sends a JSON body. `headers` are those of the request to this worker. Raises PipelineError."""
        loop = asyncio.get_running_loop()
        timeouts = self._target.timeouts
        end_at = loop.time() + timeouts.total
        first_byte_at = min(end_at, loop.time() + timeouts.first_byte) if streams else end_at
        forwarded = {name: headers[name] for name in FORWARDED if name in headers}
        request = self._http.build_request(
            "POST",
            self._target.base_url + path,
            content=body,
            headers={**self._headers(), **forwarded, "Content-Type": "application/json"},
        )
        response = Response(await self._send(request, first_byte_at), timeouts.gap, first_byte_at, end_at)
        try:
            yield response
        finally:
            await response.close()

    async def get(self, path: str, *, with_key: bool, max_bytes: int = MAX_ERROR) -> tuple[int, bytes]:
        """Status and body, within CHECK_SECONDS and without retries. Raises PipelineError."""
        request = self._http.build_request("GET", self._target.base_url + path, headers=self._headers(with_key))
        end_at = asyncio.get_running_loop().time() + CHECK_SECONDS
        response = Response(await self._send_once(request, end_at), CHECK_SECONDS, end_at, end_at)
        try:
            return response.status, await response.read_all(max_bytes)
        finally:
            await response.close()

    def _headers(self, with_key: bool = True) -> dict[str, str]:
        headers = dict(self._target.headers)
        if not with_key:
            return {name: value for name, value in headers.items() if value not in self._target.secrets}
        try:
            key = self._target.key.value()
        except ValueError as error:
            _log.error("%s", error)
            raise UpstreamFailed("This server has no usable key for the upstream.") from None
        if key:
            headers[self._target.key_header] = self._target.key_prefix + key
        return headers

    async def _send(self, request: httpx.Request, until: float) -> httpx.Response:
        """The response, whose body isn't read. Tries again only where the upstream can't have begun to work."""
        for attempt in range(self._target.retries + 1):
            is_last = attempt == self._target.retries
            pause = FIRST_PAUSE * 2**attempt
            try:
                response = await self._send_once(request, until)
            except UpstreamAway:
                if is_last:
                    raise
            else:
                if is_last or response.status_code not in (BUSY_STATUS, *AWAY_STATUSES):
                    return response
                seconds = retry_after(response.headers, time.time())
                if seconds is None or seconds > self._target.max_retry_wait:
                    return response
                await response.aclose()
                pause = max(seconds, FIRST_PAUSE)
            await _sleep(pause, until)
        raise AssertionError("the last attempt returns or raises")

    async def _send_once(self, request: httpx.Request, until: float) -> httpx.Response:
        try:
            async with asyncio.timeout_at(until):
                return await self._send_to_any_address(request)
        except TimeoutError:
            raise TimedOut("The upstream didn't answer in time.") from None
        except _NOT_CONNECTED as error:
            _log.warning("can't connect to the upstream: %s", type(error).__name__)
            raise UpstreamAway("The upstream can't be reached.") from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            _log.warning("no answer from the upstream: %s", type(error).__name__)
            raise UpstreamFailed("The upstream closed the connection without an answer.") from None

    async def _send_to_any_address(self, request: httpx.Request) -> httpx.Response:
        """Tries the addresses of `localhost` in turn, first the last that answered. Raises httpx's errors."""
        if not self._is_localhost:
            return await self._http.send(request, stream=True)
        request.extensions["sni_hostname"] = LOCALHOST
        for is_last, address in enumerate(tuple(self._localhost)):
            request.url = request.url.copy_with(host=address)  # the header `Host` stays
            try:
                response = await self._http.send(request, stream=True)
            except _NOT_CONNECTED:
                if is_last:
                    raise
            else:
                if is_last:
                    self._localhost.reverse()
                return response
        raise AssertionError("the last address returns or raises")


async def _sleep(seconds: float, until: float) -> None:
    """Raises TimedOut if the time is over before."""
    loop = asyncio.get_running_loop()
    if loop.time() + seconds > until:
        raise TimedOut("The upstream didn't answer in time.")
    await asyncio.sleep(seconds)


def _is_loopback(url: str) -> bool:
    """Whether the host is this machine, which no proxy can reach."""
    host = urlsplit(url).hostname or ""
    if host == LOCALHOST or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
