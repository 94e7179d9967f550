"""Opens channels to backends, with TLS and keepalive pings.

A channel keeps the certificates that it was opened with. When their files change, `pool.py` replaces all channels.
"""

import asyncio
import ipaddress
from collections.abc import Callable

import grpc
from grpc import aio

from anyserve_common.file_watch import follow, signature
from anyserve_common.pem_files import PEMFiles

MAX_MESSAGE_BYTES = 64 << 20
RECONNECT_INTERVAL = 1.0
"""Seconds between attempts to connect, and the time limit of each."""
DEFAULT_PING_INTERVAL = 310.0
"""Seconds between pings to a server that doesn't permit frequent ones. gRPC's servers close a connection on which pings
come within 300 seconds without data, as during a long answer that is not streamed."""
DEFAULT_PING_TIMEOUT = 20.0
"""Seconds to wait for the answer to such a ping."""
Options = list[tuple[str, int | str]]


class Dialer:
    """Opens channels. `keepalive`: seconds of silence before a ping to the backend, and to wait for its answer.
    `server_name`: the name in the backend's certificate; empty is the host of the endpoint. Without `files` there is no
    TLS. Raises OSError or ValueError if a file is unusable.
    """

    def __init__(self, keepalive: float = 5.0, files: PEMFiles | None = None, server_name: str = "") -> None:
        self._keepalive = keepalive
        self._files = files
        self._server_name = server_name
        self._seen = signature(files.paths) if files else ()  # before reading them, so that no later change is missed
        self._credentials = _credentials(files) if files else None

    def open(self, target: str, name: str = "", *, frequent_pings: bool = False) -> aio.Channel:
        """`name` is the host if `target` is one of its addresses. `frequent_pings`: whether the server permits them."""
        time, timeout = (
            (self._keepalive, self._keepalive) if frequent_pings else (DEFAULT_PING_INTERVAL, DEFAULT_PING_TIMEOUT)
        )
        options = channel_options(target, time, timeout)
        options.append(("grpc.keepalive_permit_without_calls", int(frequent_pings)))
        name = self._server_name or name
        if self._credentials is None:
            return aio.insecure_channel(target, options=options)
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        return aio.secure_channel(target, self._credentials, options=options)

    async def watch(self, renewed: Callable[[], None]) -> None:
        """Reads the files again when they change, and then calls `renewed`. Runs until cancelled."""
        files, loop = self._files, asyncio.get_running_loop()
        if files is None or not files.paths:
            return

        def read_again() -> None:
            self._credentials = _credentials(files)
            loop.call_soon_threadsafe(renewed)

        await follow(files.paths, self._seen, read_again)


def _credentials(files: PEMFiles) -> grpc.ChannelCredentials:
    """Without a CA, the channel trusts the system's authorities. Raises OSError or ValueError."""
    certificate, key, ca = files.read()
    return grpc.ssl_channel_credentials(ca, key, certificate)


def channel_options(
    target: str, keepalive: float = DEFAULT_PING_INTERVAL, timeout: float = DEFAULT_PING_TIMEOUT
) -> Options:
    options: Options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # Reconnects about a second after a worker has restarted.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(RECONNECT_INTERVAL * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(RECONNECT_INTERVAL * 1000)),
        # Detects that the peer is gone while a call waits for it.
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(timeout * 1000)),  # else a minute, despite the line above
        # No limit on pings while this side sends no data.
        ("grpc.http2.max_pings_without_data", 0),
    ]
    if is_loopback(target):
        options.append(("grpc.enable_http_proxy", 0))
    return options


def is_loopback(target: str) -> bool:
    host = target.removeprefix("dns:").removeprefix("///").rsplit(":", 1)[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost" or target.startswith(("unix:", "unix-abstract:"))
