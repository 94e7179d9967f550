"""Serves `GET /metrics` over HTTP on threads of its own, apart from the event loop and the engine's thread.

Connections are few and last a few seconds at most. If all slots are taken, a new connection replaces the oldest one, so
that clients that trickle bytes, or don't read, can't keep others out.

prometheus_client's own server limits neither: it starts a thread per connection, without a timeout, and 300 unfinished
requests hold 300 threads.
"""

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MAX_CONNECTIONS = 8
TIMEOUT = 10.0
"""Seconds that a connection may last, request and response together."""
EVICTION_TIMEOUT = 1.0
"""Seconds that the thread of a replaced connection has to end."""


class MetricsServer:
    """Serves on a listening socket from its creation to `close`, which also closes the socket."""

    def __init__(self, listener: socket.socket, text: Callable[[], bytes], content_type: str) -> None:
        self._server = _Server(listener, _handler(text, content_type))
        self.port: int = listener.getsockname()[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._accepted_at: dict[Any, float] = {}
        """Monotonic seconds at which each open connection was accepted, the oldest first."""
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # created by the base class, not bound
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            with self._lock:
                oldest = next(iter(self._accepted_at.values()), 0.0)
            self._shut_down(oldest)
            if not self._slots.acquire(timeout=EVICTION_TIMEOUT):
                self.shutdown_request(request)
                return
        with self._lock:
            self._accepted_at[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection and frees its slot. Called however the connection ended."""
        with self._lock:
            if self._accepted_at.pop(request, None) is not None:
                self._slots.release()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called after each new connection, and twice a second."""
        self._shut_down(time.monotonic() - TIMEOUT)

    def _shut_down(self, latest: float) -> None:
        """Shuts down the connections accepted up to `latest`, in monotonic seconds; their threads then close them."""
        with self._lock:
            for request, accepted_at in self._accepted_at.items():
                if accepted_at > latest:
                    break
                with suppress(OSError):  # The client is already gone.
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores the error: the client is gone."""


def _handler(text: Callable[[], bytes], content_type: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        timeout = TIMEOUT
        server_version, sys_version = "anyserve", ""

        def do_GET(self) -> None:
            if self.path.partition("?")[0] != "/metrics":
                self.send_error(404)
                return
            body = text()
            self.send_response(200)
            self.send_header("content-type", content_type)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Logs nothing: scrapes are frequent and all alike."""

    return Handler
