"""Prometheus metrics of the sidecar. They are updated once or twice per request, never per token.

Names and buckets follow OpenTelemetry's conventions for generative AI where those define them, in Prometheus'
spelling; all other names begin with `openai_server_`. Labels have few values: the server's endpoints, the models that
the backend serves, and statuses. `model` is empty if the request's model was not found.

With `--workers`, a scrape of one process returns the sums of all: see `sharing.py`.
"""

from collections.abc import Iterable, Sequence
from functools import cache, cached_property

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from openai_server import __version__
from openai_server.core.load import BackendLoad
from openai_server.core.request_context import RequestContext
from openai_server.telemetry import load, sharing, vllm_names
from openai_server.telemetry.processes import ProcessesCollector
from openai_server.telemetry.store_metrics import StoreMetrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # the time at which each series began, which would double the number of series

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
PROVIDER = "anyserve"

# The conventions' buckets.
DURATIONS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKENS = tuple(float(4**k) for k in range(14))
QUEUE = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
FINE = (0.001, 0.0025, 0.005)
"""Buckets below those of PER_TOKEN, for small models."""

_GEN_AI = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")


class _Level:
    """The value of a gauge of one process. The gauge reads it at a scrape; for a request that is cheaper than setting a
    gauge."""

    def __init__(self, gauge: Gauge) -> None:
        self._n = 0.0
        gauge.set_function(lambda: self._n)

    def inc(self, amount: float = 1) -> None:
        self._n += amount

    def set(self, value: float) -> None:
        self._n = value


class _Families(Collector):
    """Metrics that have already been collected."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


VLLM = "vllm"
"""The names of vLLM, as a value of `names`."""


def _level(gauge: Gauge) -> Gauge | _Level:
    return gauge if sharing.is_shared() else _Level(gauge)


class Metrics:
    """`names`: whose names the metrics have besides their own, such as VLLM."""

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._names = tuple(names)
        registry = self._registry = CollectorRegistry()
        Gauge(
            "openai_server_info",
            "Always 1; the label is the server's version.",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        ).labels(__version__).set(1)
        requests = Counter(
            "openai_server_requests",
            "Answered requests. A stream that failed midway has the status that an error response would have had; a "
            "request whose client left has 499.",
            ["endpoint", "model", "status"],
            registry=registry,
        )
        running = Gauge(
            "openai_server_requests_running",
            "Requests in progress.",
            ["endpoint"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        waiting = Gauge(
            "openai_server_requests_waiting",
            "Streams in progress that have no token yet.",
            ["endpoint"],
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._admitted = _level(
            Gauge(
                "openai_server_requests_admitted",
                "Requests that have one of the --max-concurrency slots.",
                registry=registry,
                multiprocess_mode="livesum",
            )
        )
        self._queued = _level(
            Gauge(
                load.OWN_QUEUE,
                "Requests queued for a slot, without background work.",
                registry=registry,
                multiprocess_mode="livesum",
            )
        )
        self._queued_in_background = _level(
            Gauge(
                "openai_server_requests_deferred",
                "Background work queued for a slot: requests with the service tier flex, and lines of batches.",
                registry=registry,
                multiprocess_mode="livesum",
            )
        )
        self._unreported = _level(
            Gauge(
                load.UNREPORTED,
                "Requests in progress at backends that don't report their load.",
                registry=registry,
                multiprocess_mode="livesum",
            )
        )
        self._queue_seconds = Histogram(
            "openai_server_queue_seconds",
            "Time spent queued for a slot, including rejected requests; requests admitted at once are not counted, nor "
            "is background work.",
            registry=registry,
            buckets=QUEUE,
        )
        self._connections_refused = Counter(
            "openai_server_connections_refused",
            "Connections refused because too many were open (--max-connections).",
            registry=registry,
        )
        by_model = ["endpoint", "model"]
        prompt = Counter(
            "openai_server_prompt_tokens",
            "Prompt tokens of requests with a complete answer.",
            by_model,
            registry=registry,
        )
        cached = Counter(
            "openai_server_cached_tokens",
            "Prompt tokens that were in the backend's cache and not computed again; absent if the backend doesn't "
            "report them.",
            by_model,
            registry=registry,
        )
        completion = Counter(
            "openai_server_completion_tokens",
            "Generated tokens; for a stream that was cut off, the number of text pieces received before that.",
            by_model,
            registry=registry,
        )
        duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "Time from a request to the end of its answer.",
            [*_GEN_AI, "error_type"],
            registry=registry,
            buckets=DURATIONS,
        )
        first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time from a request to the first token of its stream.",
            _GEN_AI,
            registry=registry,
            buckets=FIRST_TOKEN,
        )
        per_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between the tokens of a stream, after the first one.",
            _GEN_AI,
            registry=registry,
            buckets=(*FINE, *PER_TOKEN),
        )
        usage = Histogram(
            "gen_ai_client_token_usage",
            "Tokens of a request with a complete answer, by type.",
            [*_GEN_AI, "gen_ai_token_type"],
            registry=registry,
            buckets=TOKENS,
        )
        # Looking a series up takes several times as long as updating it. The caches stay small: labels have few values.
        self._requests = cache(requests.labels)
        self._running = cache(lambda *labels: _level(running.labels(*labels)))
        self._waiting = cache(lambda *labels: _level(waiting.labels(*labels)))
        self._prompt = cache(prompt.labels)
        self._cached = cache(cached.labels)
        self._completion = cache(completion.labels)
        self._duration = cache(duration.labels)
        self._first_token = cache(first_token.labels)
        self._per_token = cache(per_token.labels)
        self._usage = cache(usage.labels)
        if not sharing.is_shared():
            ProcessCollector(registry=registry)

    @cached_property
    def store(self) -> StoreMetrics:
        """Metrics that exist from the first access on: a server without a store doesn't have them."""
        return StoreMetrics(self._registry)

    # ---- Events

    def begin(self, context: RequestContext) -> None:
        self._running(context.endpoint).inc()

    def wait(self, context: RequestContext, n: int) -> None:
        self._waiting(context.endpoint).inc(n)

    def admitted(self, n: int) -> None:
        self._admitted.inc(n)

    def queued(self, n: int, *, in_background: bool = False) -> None:
        (self._queued_in_background if in_background else self._queued).inc(n)

    def waited(self, seconds: float) -> None:
        self._queue_seconds.observe(seconds)

    def connection_refused(self) -> None:
        self._connections_refused.inc()

    def end(self, ended: Iterable[RequestContext]) -> None:
        """Counts requests that have ended, grouped by endpoint, model and status."""
        groups: dict[tuple[str, str, int], list[RequestContext]] = {}
        for context in ended:
            groups.setdefault((context.endpoint, context.model, context.status), []).append(context)
        for (endpoint, model, status), group in groups.items():
            self._running(endpoint).inc(-len(group))
            self._requests(endpoint, model, str(status)).inc(len(group))
            if usages := [context.usage for context in group if context.usage]:
                self._prompt(endpoint, model).inc(sum(usage.prompt for usage in usages))
                if cached := [usage.cached for usage in usages if usage.cached is not None]:
                    self._cached(endpoint, model).inc(sum(cached))
            if tokens := sum(context.completion_tokens or 0 for context in group):
                self._completion(endpoint, model).inc(tokens)
            if operation := group[0].operation:
                for context in group:
                    self._observe(context, (operation, PROVIDER, model))

    def _observe(self, context: RequestContext, labels: tuple[str, str, str]) -> None:
        error = str(context.status) if context.status >= 400 else ""
        self._duration(*labels, error).observe(context.duration)
        if (seconds := context.time_to_first_token) is not None:
            self._first_token(*labels).observe(seconds)
        if (seconds := context.time_per_output_token) is not None:
            self._per_token(*labels).observe(seconds)
        if usage := context.usage:
            self._usage(*labels, "input").observe(usage.prompt)
            if context.finish_reasons:
                self._usage(*labels, "output").observe(usage.completion)

    # ---- Scrapes

    def unreported(self, n: int) -> None:
        """Sets the number of this process' requests at backends that don't report their load."""
        self._unreported.set(n)

    def text(self, reported: BackendLoad | None = None, model: str = "") -> bytes:
        """All metrics in Prometheus' text format. `reported` is the load of the backends, None if unknown, and `model`
        the name of the default model, empty if unknown."""
        registry = self._registry
        if sharing.is_shared():
            registry = CollectorRegistry()
            MultiProcessCollector(registry)  # type: ignore[no-untyped-call]  # registers itself
            registry.register(ProcessesCollector(sharing.processes))
        families = list(registry.collect())
        families += load.families(families, reported)
        if VLLM in self._names:
            families += vllm_names.families(families, model)
        collected = CollectorRegistry()
        collected.register(_Families(families))
        return generate_latest(collected)
