"""uvicorn's connection, which also enforces RFC 9112's framing, and limits on a client's bytes and its speed.

uvicorn enforces none of these limits: a client that trickles bytes would hold its connection forever, a client that
doesn't read its response would hold a slot, and endless headers would fill the memory. A connection beyond the limit
gets a response and is closed at once. (uvicorn's `limit_concurrency` would accept it and refuse its requests.)
"""

import logging
from asyncio import Event, Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import unquote

import orjson
from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from openai_server.core.errors import APIError, InternalError, TooManyConnections
from openai_server.http import framing
from openai_server.http.answering import Cycle, Outlet, adapt
from openai_server.http.linger import Linger
from openai_server.http.streaming import EXCHANGE
from openai_server.http.timing import Phase, TimedConnection

log = logging.getLogger(__name__)

MAX_HEADER_BYTES = 64 << 10
"""Maximum bytes of a request line and its headers, and of the framing between two pieces of a body."""
MAX_HEADERS = 128
"""Maximum number of header lines: short lines take many times their size in memory."""
CHUNK_OVERHEAD = 8
"""Bytes of chunk sizes and extensions allowed for each byte of a body, in addition to MAX_HEADER_BYTES."""
MAX_PIPELINED = 64
"""Maximum number of requests that wait for the responses before theirs. One read may contain thousands of requests."""

MAX_REJECTED = 32
"""Connections beyond the limit that may be open while their clients read the refusal."""

BODY_ERROR = "body_error"
"""Key in the ASGI scope: the APIError for a body that is malformed or late. The body ends at this point."""


class NoMoreRequests(Exception):
    """The previous request has ended the connection (RFC 9112, 9.6)."""


class Connection(TimedConnection):
    """One connection. The time limit for headers also applies to the first byte of a new connection."""

    MAX_CONNECTIONS: int
    """Maximum number of open connections; with TLS, of those with a completed handshake."""
    refused: Callable[[], None]
    """Called for each connection beyond the limit."""
    rejected: set["Connection"]
    """Refused connections that are still open."""

    _ignores_input = False
    """Whether further bytes are discarded rather than parsed."""
    _answered: Cycle | None = None
    """The request whose response is being sent, or was sent last."""
    _last_error: APIError | None = None
    """The error for a request that can't be parsed, to send after the responses before it."""

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]  # as uvicorn
        super().connection_made(transport)
        self._renew_parser()
        self._outlet = Outlet(transport, self._close)
        self._linger = Linger(transport, self.loop, self._close_now)
        if len(self.connections) > self.MAX_CONNECTIONS:
            self.refused()
            self._reject()
        else:
            self._set_timer(Phase.HEADERS)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._stop_send_timer()
        self._linger.stop()
        self._outlet.close = self._linger.close = _do_nothing  # Breaks reference cycles.
        self.rejected.discard(self)
        super().connection_lost(exc)
        if self._answered is not None and not self._answered.response_complete:
            self._answered.leave()

    def data_received(self, data: bytes) -> None:
        """Replaces uvicorn's method, which takes the bytes after an upgrade for another request."""
        if self._ignores_input:
            self._linger.discard(len(data))
            return
        self._unset_keepalive_if_required()
        self._unread += len(data)
        try:
            self._parse(data)
        except HttpParserError as error:
            self._fail(error)
            return
        if self.transport.is_closing():
            self._stop_timer()
        elif self._linger.has_begun:
            self._linger.discard(len(data))
        elif self._unread > MAX_HEADER_BYTES or len(self.headers or ()) > MAX_HEADERS:
            self._refuse(self._too_large())
        elif self._phase is Phase.NOTHING and (self._unread == 0 or self._answering()):
            self._stop_timer()
        else:  # Bytes before a request, such as empty lines, have the time limit of headers.
            expected = Phase.BODY if self._phase is Phase.BODY else Phase.HEADERS
            if self._timed is not expected:
                self._set_timer(expected)
            if expected is Phase.BODY and self.cycle.response_complete:
                self._linger.discard(len(data))

    def _parse(self, data: bytes) -> None:
        """Raises HttpParserError.

        The parser stops after a head that requests an upgrade, as if another protocol followed. A new parser reads the
        same head without the upgrade, so that the body is framed as in any other request.
        """
        while True:
            parser = self.parser
            try:
                parser.feed_data(data)
                return
            except HttpParserUpgrade as upgrade:
                head = framing.without_upgrade(parser.get_method(), self.url, parser.get_http_version(), self.headers)
                data = head + data[upgrade.args[0] :]
                self._renew_parser()

    def _renew_parser(self) -> None:
        self.parser = HttpRequestParser(self)
        # `on_message_begin` refuses requests after `Connection: close`, and `framing` checks the version.
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True, lenient_version=True)

    # ---- Callbacks of the parser

    def on_message_begin(self) -> None:
        if self.cycle is not None and not self.cycle.keep_alive:
            raise NoMoreRequests
        self._phase = Phase.HEADERS
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        parser = self.parser
        if (
            len(self.headers) > MAX_HEADERS
            or len(self.url) > framing.MAX_TARGET_BYTES
            or (self._unread > MAX_HEADER_BYTES and self._header_bytes() > MAX_HEADER_BYTES)
        ):
            raise self._too_large()
        method, version = parser.get_method(), parser.get_http_version()
        if parser.should_upgrade() and method != b"CONNECT":
            return  # `_parse` feeds this head again, without the upgrade.
        self.scope["method"] = method.decode("ascii")
        target, waits = framing.check(method, version, self.url, self.headers)
        if len(self.pipeline) >= MAX_PIPELINED:
            raise APIError(400, f"The client sent more than {MAX_PIPELINED} requests without waiting for responses.")
        self._phase = Phase.BODY
        self._unread = 0
        self.headers = []  # Trailers, which are no headers (RFC 9112, 7.1.2), are counted in this list.
        self._begin(target, version, waits)

    def _begin(self, target: bytes, version: str, waits: bool) -> None:
        """Runs the application, after the previous requests. Replaces uvicorn's code, which parses targets itself."""
        scope: Any = self.scope
        raw_path, _, query = target.partition(b"?")
        path = raw_path.decode("ascii")
        scope["path"] = self.root_path + (unquote(path) if "%" in path else path)
        scope["raw_path"] = self.root_path.encode("ascii") + raw_path
        scope["query_string"] = query
        if version == "1.0":
            scope["http_version"] = version
        cycle = Cycle(
            scope=self.scope,
            transport=self._outlet,  # type: ignore[arg-type]  # has everything that a cycle uses
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=self.access_log,
            default_headers=self.server_state.default_headers,
            message_event=Event(),
            expect_100_continue=waits,
            keep_alive=self.parser.should_keep_alive(),
            on_response=self.on_response_complete,
        )
        cycle.on_progress = self._renew_body_time
        scope[EXCHANGE] = cycle
        if waits or version == "1.0":
            adapt(cycle)
        is_busy, self.cycle = self._answering(), cycle
        if not is_busy:
            self._start_asgi_task(cycle, self.app)
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((cycle, self.app))

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Replaces uvicorn's method, to record the request whose response is being sent: others may wait behind it."""
        self._answered = cast(Cycle, cycle)
        task = self.loop.create_task(cycle.run_asgi(app))
        task.add_done_callback(self.tasks.discard)
        self.tasks.add(task)

    def on_body(self, body: bytes) -> None:
        self._unread -= CHUNK_OVERHEAD * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._phase is Phase.HEADERS:
            return  # The parser ends the message at an upgrade; `_parse` feeds the head again.
        self._phase = Phase.NOTHING
        self._unread = 0
        self._linger.discarded = 0
        super().on_message_complete()
        if self._linger.has_begun:
            self._close_now()

    def _header_bytes(self) -> int:
        return len(self.url) + sum(len(name) + len(value) for name, value in self.headers)

    def _too_large(self) -> APIError:
        if self._phase is Phase.HEADERS and len(self.url) > framing.MAX_TARGET_BYTES:
            return framing.target_too_long()
        if self._phase is Phase.BODY:
            return APIError(431, "The chunks of the request body have too many extensions or trailers.")
        return APIError(431, f"There are more than {MAX_HEADER_BYTES} bytes or {MAX_HEADERS} lines of headers.")

    def on_response_complete(self) -> None:
        if self._linger.has_begun:
            self.server_state.total_requests += 1
            return
        super().on_response_complete()
        if self.transport.is_closing():
            return
        if self.pipeline:
            self.flow.pause_reading()  # Otherwise more requests would be read after each response.
        elif self._last_error is not None and not self._answering():
            self._answer(self._last_error)

    # ---- The end

    def _fail(self, error: HttpParserError) -> None:
        """Handles the parser's error. Its context is the exception that a callback raised."""
        cause = error.__context__
        if isinstance(cause, NoMoreRequests):
            self._ignores_input = True
            self._stop_timer()
        elif isinstance(cause, APIError):
            self._refuse(cause)
        elif isinstance(error, HttpParserCallbackError):
            log.error("can't read a request", exc_info=error)
            self._refuse(InternalError())
        else:
            self._refuse(framing.parser_error(str(error)))

    def _refuse(self, error: APIError) -> None:
        """Responds with `error`, after the previous responses. Later bytes are ignored: the end of this request is
        unknown."""
        self._ignores_input = True
        self._stop_timer()
        if self._phase is Phase.BODY:
            self._end_body(error)
        elif self._answering():
            self._last_error = error
        else:
            self._answer(error)

    def _end_body(self, error: APIError) -> None:
        """Ends the body with an error, which the application responds with."""
        cycle = self.cycle
        if cycle.response_complete:
            self._close()
            return
        cast(dict[str, Any], cycle.scope)[BODY_ERROR] = error
        cycle.keep_alive = cycle.more_body = False
        cycle.message_event.set()

    def _reject(self) -> None:
        """Refuses the connection, which is beyond the limit."""
        self.connections.discard(self)
        self.rejected.add(self)
        self._refuse(TooManyConnections())
        if len(self.rejected) > MAX_REJECTED:
            self._close_now()

    def _answer(self, error: APIError) -> None:
        log.debug("%s: %d: %s", self.client, error.status, error.message)
        body = orjson.dumps(error.envelope())
        fields = {"content-type": "application/json", "content-length": str(len(body)), **error.headers}
        head = [
            f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}",
            *(f"{name.decode()}: {value.decode()}" for name, value in self.server_state.default_headers),
            *(f"{name}: {value}" for name, value in fields.items()),
            "connection: close",
        ]
        is_head = self._phase is Phase.HEADERS and self.scope.get("method") == "HEAD"
        self.transport.write("\r\n".join([*head, "", ""]).encode() + (b"" if is_head else body))
        self._close()

    def _close(self) -> None:
        """Ends the connection after its last response: at once if no more bytes of the client are expected."""
        if self.transport.is_closing() or self._linger.has_begun:
            return
        unread = self._phase is not Phase.NOTHING or self._unread or self._ignores_input or self.pipeline
        if not unread and not self.flow.read_paused and not self.transport.can_write_eof():
            self._close_now()
            return
        self._ignores_input = self._ignores_input or self._phase is not Phase.BODY or bool(self.pipeline)
        self.pipeline.clear()
        if self.cycle is not None:
            self.cycle.keep_alive = False
        self._stop_timer()
        self._unset_keepalive_if_required()
        self._linger.begin(self.BODY_SECONDS)
        self.flow.resume_reading()

    def _close_now(self) -> None:
        self._linger.stop()
        super()._close_now()


def _do_nothing() -> None: ...


def connection(
    *,
    header_seconds: float,
    body_seconds: float,
    send_seconds: float,
    max_connections: int,
    refused: Callable[[], None],
) -> type[Any]:
    """A subclass of Connection with these limits: uvicorn creates the instances itself."""
    limits = {
        "HEADER_SECONDS": header_seconds,
        "BODY_SECONDS": body_seconds,
        "SEND_SECONDS": send_seconds,
        "MAX_CONNECTIONS": max_connections,
        "refused": staticmethod(refused),
        "rejected": set(),
    }
    return type("Connection", (Connection,), limits)
