"""uvicorn's connection, with time limits for sending headers, sending a body, and reading the response."""

from asyncio import TimerHandle
from enum import Enum, auto

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from openai_server.core.errors import APIError, BodyTooSlow


class Phase(Enum):
    """The part of a request that is expected next."""

    HEADERS = auto()
    BODY = auto()
    NOTHING = auto()
    """The request is complete."""


class TimedConnection(HttpToolsProtocol):
    """The subclass sets `_phase`, `_unread`, and the timer for the part that it expects next."""

    HEADER_SECONDS: float
    BODY_SECONDS: float
    SEND_SECONDS: float

    _phase = Phase.NOTHING
    _unread = 0
    """Bytes since the last request, or bytes of a body's framing beyond those that its content allows."""
    _timer: TimerHandle | None = None
    _timed: Phase | None = None
    """The phase that `_timer` limits."""
    _send_timer: TimerHandle | None = None

    # ---- Clients that don't read

    def pause_writing(self) -> None:
        """Called when too much data waits to be sent."""
        super().pause_writing()
        self._set_send_timer()

    def resume_writing(self) -> None:
        self._stop_send_timer()
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()
        else:
            super().timeout_keep_alive_handler()

    def _set_send_timer(self) -> None:
        if self._send_timer is None:
            self._send_timer = self.loop.call_later(self.SEND_SECONDS, self.transport.abort)

    def _stop_send_timer(self) -> None:
        if self._send_timer is not None:
            self._send_timer.cancel()
            self._send_timer = None

    # ---- Clients that send slowly

    def _set_timer(self, phase: Phase) -> None:
        self._stop_timer()
        self._timed = phase
        seconds = self.HEADER_SECONDS if phase is Phase.HEADERS else self.BODY_SECONDS
        self._timer = self.loop.call_later(seconds, self._late)

    def _renew_body_time(self, cycle: RequestResponseCycle) -> None:
        """Starts the time limit for a body again, unless another request's is expected."""
        if self._timed is Phase.BODY and self.cycle is cycle:
            self._set_timer(Phase.BODY)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._timed = None

    def _late(self) -> None:
        phase, self._timed = self._timed, None
        if self.transport.is_closing() or phase is None:
            return
        if self.flow.read_paused or self.pipeline or self._answering():
            # The server itself doesn't read, or a response is being sent, which must not be cut off.
            self._set_timer(phase)
            if phase is Phase.BODY and not (self.flow.read_paused or self.pipeline or self.cycle.response_started):
                self._refuse(BodyTooSlow(self.BODY_SECONDS))
        elif self._phase is Phase.NOTHING and self._unread == 0:
            self.transport.close()  # A client that has sent nothing expects no response.
        elif phase is Phase.HEADERS:
            problem = f"The request's headers did not arrive within {self.HEADER_SECONDS:g} s."
            self._refuse(APIError(408, problem, code="request_timeout"))
        else:
            self._close_now()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self, error: APIError) -> None:
        """Responds with `error`, and ends the connection."""
        raise NotImplementedError

    def _close_now(self) -> None:
        self._stop_timer()
        self.transport.close()
        if self.transport.get_write_buffer_size():
            self._set_send_timer()  # Otherwise the connection would stay open until all data is sent.
