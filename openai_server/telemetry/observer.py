"""Begins the context of each request, and reports it to metrics, access log and traces after the request has ended."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from anyserve_common.logs import together
from openai_server.core.request_context import OTHER, RequestContext
from openai_server.telemetry import access_log
from openai_server.telemetry.metrics import Metrics
from openai_server.telemetry.request_start import begin
from openai_server.telemetry.tracing import Tracer, tracer

REPORT_AFTER = 0.02
"""Seconds from the end of a request until it is reported. Reporting at once would delay its response and other
requests; reporting several requests together takes a third of the time."""


class Observer:
    """`metrics_names`: whose names the metrics have besides their own."""

    def __init__(self, *, log_access: bool, tracer: Tracer | None = None, metrics_names: Sequence[str] = ()) -> None:
        self.metrics = Metrics(metrics_names)
        self._log_access = log_access
        self._tracer = tracer
        self._ended: list[RequestContext] = []
        """Requests that are not reported yet."""

    @classmethod
    def of(cls, *, log_access: bool, tracing: bool, metrics_names: Sequence[str] = ()) -> "Observer":
        return cls(log_access=log_access, tracer=tracer() if tracing else None, metrics_names=metrics_names)

    def begin(
        self,
        scope: Mapping[str, Any],
        receive: Callable[[], Awaitable[Any]],
        *,
        endpoint: str = OTHER,
        operation: str = "",
        is_logged: bool = True,
        parameters: Mapping[str, str] | None = None,
    ) -> RequestContext:
        context = begin(
            scope,
            receive,
            clock=time.perf_counter,
            on_waiting=self.metrics.wait,
            endpoint=endpoint,
            operation=operation,
            is_logged=is_logged,
            parameters=parameters,
        )
        self.metrics.begin(context)
        if self._tracer and is_logged:
            self._tracer.begin(context)
        return context

    def end(self, context: RequestContext) -> None:
        context.end()
        if not self._ended:
            asyncio.get_running_loop().call_later(REPORT_AFTER, self.report)
        self._ended.append(context)

    def report(self) -> None:
        """Reports all requests that have ended."""
        ended, self._ended = self._ended, []
        self.metrics.end(ended)
        if self._log_access:
            with together():
                for context in ended:
                    if context.is_logged:
                        access_log.write(context)
        if self._tracer:
            for context in ended:
                if context.span is not None:
                    self._tracer.end(context)

    def close(self) -> None:
        self.report()
        if self._tracer:
            self._tracer.close()
