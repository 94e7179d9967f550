"""`GET /metrics` over HTTP, on threads of its own: nothing of it is on the event loop, nor on the engine's thread.

A client may take few connections, and each only a few seconds.
"""

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MOST_CONNECTIONS = 8
TIMEOUT = 10.0
"""Seconds that a connection may be silent."""


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
        self._places = threading.Semaphore(MOST_CONNECTIONS)
        super().__init__(listener.getsockname()[:2], handler, bind_and_activate=False)
        self.socket.close()  # its own, which is not bound
        self.socket = listener

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._places.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

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
