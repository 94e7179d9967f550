"""`GET /metrics` over HTTP, on threads of its own: nothing of it is on the event loop, nor on the engine's thread.

There are few connections, each for a few seconds. A new one takes the place of the oldest if all places are taken, so
that clients that trickle bytes, or read none, keep no other client out.
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
"""Seconds in which the thread of a connection that was cut off has to end."""


class MetricsServer:
    """Serves from the start, on a socket that listens, which it closes at the end."""

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
        self._places = threading.Semaphore(MAX_CONNECTIONS)
        self._lock = threading.Lock()
        self._opened: dict[Any, float] = {}
        """Monotonic seconds at which each open connection came, the oldest first."""
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # its own, which is not bound
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            with self._lock:
                oldest = next(iter(self._opened.values()), 0.0)
            self._cut_off(oldest)
            if not self._places.acquire(timeout=EVICTION_TIMEOUT):
                self.shutdown_request(request)
                return
        with self._lock:
            self._opened[request] = time.monotonic()
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection, however it ended."""
        with self._lock:
            if self._opened.pop(request, None) is not None:
                self._places.release()
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Called after each new connection, and twice a second."""
        self._cut_off(time.monotonic() - TIMEOUT)

    def _cut_off(self, came_by: float) -> None:
        """Wakes the threads of the connections that came by then, which close them."""
        with self._lock:
            for request, came in self._opened.items():
                if came > came_by:
                    break
                with suppress(OSError):  # The client is gone already.
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""


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
            """Nobody wants to read of it."""

    return Handler
