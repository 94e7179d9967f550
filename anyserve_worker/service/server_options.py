"""Options of how the worker's server listens, drains and reports."""

from dataclasses import dataclass
from pathlib import Path

from anyserve_common import tracing
from anyserve_common.pem_files import PEMFiles


@dataclass(frozen=True, slots=True)
class ServerOptions:
    models: tuple[tuple[str, Path], ...]
    """(name, path), the default model first."""
    hosts: tuple[str, ...]
    """Addresses and names to listen on."""
    port: int
    """0: any port that is free on all hosts."""
    drain_timeout: float
    """Seconds that running requests get to finish, after SIGTERM and `drain_delay`."""
    log_level: str
    threads: int
    """Number of processors that this process may use."""
    drain_delay: float = 0
    """Seconds after SIGTERM to report not-ready but keep accepting requests."""
    keepalive_time: float = 10
    """Seconds of silence before a client is pinged, and after the ping before its connection is closed."""
    max_connections: int = 1024
    """Open connections per address."""
    handshake_timeout: float = 10
    """Seconds that a new connection has to complete TLS and send its first HTTP/2 frame."""
    tls: PEMFiles | None = None
    metrics_hosts: tuple[str, ...] = ()
    metrics_port: int | None = None
    """None: no metrics. 0: any free port."""
    access_log: bool = False
    tracing: str = tracing.OFF
