"""How the worker's server listens, drains and reports."""

from dataclasses import dataclass
from pathlib import Path

from anyserve_common import tracing
from anyserve_worker.service.tls import TLS


@dataclass(frozen=True, slots=True)
class ServerOptions:
    models: tuple[tuple[str, Path], ...]
    """(name, path), the default model first."""
    hosts: tuple[str, ...]
    """Addresses and names."""
    port: int
    """0: any one that is free on all of them."""
    drain_timeout: float
    """Seconds that running requests get to finish after SIGTERM."""
    log_level: str
    threads: int
    """Number of processors that this process may use."""
    drain_delay: float = 0
    """Seconds after SIGTERM in which new requests are still accepted."""
    keepalive_time: float = 10
    """Seconds of silence before a client is pinged, and again until it counts as gone."""
    max_connections: int = 1024
    handshake_timeout: float = 10
    """Seconds until a new connection has to be one of HTTP/2, TLS included."""
    tls: TLS | None = None
    metrics_hosts: tuple[str, ...] = ()
    metrics_port: int | None = None
    """None: no metrics. 0: any free one."""
    access_log: bool = False
    tracing: str = tracing.OFF
