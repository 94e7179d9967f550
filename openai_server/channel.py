"""How channels to the backend are opened: TLS, and how they find out that the other side is gone."""

import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import click
import grpc
from grpc import aio

from openai_server.config import Config

MAX_MESSAGE_BYTES = 64 << 20
RECONNECT = 1.0
"""Seconds between attempts to connect, and how long one may take."""
PATIENT = 60.0
"""Seconds between pings to a server that was told nothing about them: more of them count as an attack."""
PATIENT_TIMEOUT = 20.0
Options = list[tuple[str, int | str]]


@dataclass(frozen=True, slots=True)
class Dialer:
    """`keepalive`: seconds of silence before the backend is pinged, and again until it is given up."""

    keepalive: float = 5.0
    credentials: grpc.ChannelCredentials | None = None
    server_name: str = ""
    """That the certificate must be for; empty is the host of the endpoint."""

    def open(self, target: str, name: str = "", *, impatient: bool = False) -> aio.Channel:
        """`name`: the host, where `target` is one of its addresses. `impatient`: the server permits frequent pings."""
        time, timeout = (self.keepalive, self.keepalive) if impatient else (PATIENT, PATIENT_TIMEOUT)
        options = channel_options(target, time, timeout)
        options.append(("grpc.keepalive_permit_without_calls", int(impatient)))
        name = self.server_name or name
        if self.credentials is None:
            return aio.insecure_channel(target, options=options)
        if name:
            options.append(("grpc.ssl_target_name_override", name))
        return aio.secure_channel(target, self.credentials, options=options)


def dialer(config: Config) -> Dialer:
    """Raises ClickException if a file of --backend-... is not what it should be."""
    if not config.backend_tls:
        return Dialer(config.keepalive_time)
    ca, certificate, key = (
        Path(file).read_bytes() if file else None
        for file in (config.backend_ca, config.backend_cert, config.backend_key)
    )
    check = ssl.create_default_context()
    try:
        if config.backend_ca:
            check.load_verify_locations(config.backend_ca)
        if config.backend_cert:
            check.load_cert_chain(config.backend_cert, config.backend_key)
    except ssl.SSLError as error:
        raise click.ClickException(f"the files of --backend-ca, --backend-cert, --backend-key: {error}") from error
    return Dialer(config.keepalive_time, grpc.ssl_channel_credentials(ca, key, certificate), config.backend_server_name)


def channel_options(target: str, keepalive: float = PATIENT, timeout: float = PATIENT_TIMEOUT) -> Options:
    options: Options = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        # A worker that comes back is found within a second or so.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", round(RECONNECT * 1000)),
        ("grpc.max_reconnect_backoff_ms", round(RECONNECT * 1000)),
        # A peer that vanished is noticed while a call waits for it.
        ("grpc.keepalive_time_ms", round(keepalive * 1000)),
        ("grpc.keepalive_timeout_ms", round(timeout * 1000)),
        ("grpc.http2.ping_timeout_ms", round(timeout * 1000)),  # or else a ping has a minute, whatever the line above
        # As often as that also while only the peer has something to say.
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
        return host == "localhost" or target.startswith(("unix:", "unix-abstract:"))
