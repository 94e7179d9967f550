"""Begins and ends the record of each request, and passes it on: to metrics, the access log, traces."""

import asyncio
from collections.abc import Mapping
from typing import Any

from openai_server.telemetry import access_log, record
from openai_server.telemetry.endpoints import UNLOGGED
from openai_server.telemetry.metrics import Metrics
from openai_server.telemetry.record import Record
from openai_server.telemetry.tracing import Tracer, tracer

TELL_AFTER = 0.02
"""Seconds from the end of a request until its metrics and its access line. Not at once: that would hold up its answer,
and what others wait for. Of those that end together, one after the other is told of in a third of the time."""


class Observer:
    def __init__(self, *, log_access: bool, tracer: Tracer | None = None) -> None:
        self.metrics = Metrics()
        self._log_access = log_access
        self._tracer = tracer
        self._ended: list[Record] = []
        """Still to be told of."""

    @classmethod
    def of(cls, *, log_access: bool, tracing: bool) -> "Observer":
        return cls(log_access=log_access, tracer=tracer() if tracing else None)

    def begin(self, scope: Mapping[str, Any], endpoint: str) -> Record:
        begun = record.begin(scope, endpoint, self.metrics.wait)
        self.metrics.begin(begun)
        if self._tracer and begun.endpoint not in UNLOGGED:
            self._tracer.begin(begun)
        return begun

    def end(self, ended: Record) -> None:
        ended.end()
        if not self._ended:
            asyncio.get_running_loop().call_later(TELL_AFTER, self.tell)
        self._ended.append(ended)

    def tell(self) -> None:
        """Of all requests that have ended."""
        ended, self._ended = self._ended, []
        for each in ended:
            self._tell(each)

    def _tell(self, ended: Record) -> None:
        self.metrics.end(ended)
        if self._log_access and ended.endpoint not in UNLOGGED:
            access_log.write(ended)
        if self._tracer and ended.span is not None:
            self._tracer.end(ended)

    def close(self) -> None:
        self.tell()
        if self._tracer:
            self._tracer.close()
