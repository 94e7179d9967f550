"""Prometheus metrics of the worker, read from the engines' counters at each scrape.

Labels have few values: served models, outcomes, kinds of steps.
"""

from collections.abc import Iterable, Iterator, Mapping
from math import inf
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from anyserve_worker import __version__
from anyserve_worker.engine.stats import EngineStats, Histogram, RequestStats

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_PREFIX = "anyserve_worker_"
_COUNTERS = {
    "requests_refused": "Requests rejected because the queue, or the queue of guides to compile, was full.",
}
"""Fields of RequestStats."""
_ENGINE_COUNTERS = {
    "prompt_tokens": "Prompt tokens of requests that began to run, including those found in the KV cache.",
    "cached_tokens": "Prompt tokens found in the KV cache.",
    "generated_tokens": "Tokens sampled.",
    "drafted_tokens": "Tokens drafted by prompt lookup.",
    "accepted_tokens": "Drafted tokens that were accepted.",
    "background_tokens": "Tokens computed for background work: of prompts, drafts and answers.",
    "background_steps": "Steps of background work alone.",
    "interrupted_steps": "Steps of background work that ended early because another request had arrived.",
    "guide_trials": "Attempts to compile a guide. A remembered guide needs none, a slow one up to three.",
}
"""Fields of EngineStats."""
_HISTOGRAMS = {
    "queue_seconds": "Time from the arrival of a request to its first step.",
    "prefill_seconds": "Time from the first step of a request to its first text.",
    "request_seconds": "Time from the arrival of a request to its end.",
}
"""Fields of RequestStats."""
_ENGINE_HISTOGRAMS = {
    "step_seconds": "Duration of a step of the model.",
    "step_tokens": "Tokens in a step: prompt, drafted and generated tokens together.",
    "step_sequences": "Sequences in a step.",
}
"""Fields of EngineStats."""


class MeasuredEngine(Protocol):
    """The values of an engine that metrics read, on any thread. Implemented by `engine.engine.Engine`."""

    n_cells: int
    """KV cells in total."""
    n_ctx: int
    """Maximum length of a sequence, in tokens."""
    stats: EngineStats

    @property
    def n_requests(self) -> int: ...
    @property
    def n_running(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...
    @property
    def n_guides_waiting(self) -> int: ...
    @property
    def n_preempted(self) -> int: ...
    @property
    def n_background_preempted(self) -> int: ...
    @property
    def n_running_tokens(self) -> int: ...
    @property
    def n_free_cells(self) -> int: ...
    @property
    def threads_chosen(self) -> list[tuple[bool, int, int]]: ...


class MeasuredModel(Protocol):
    """The values of a served model that metrics read. Implemented by `service.served_model.ServedModel`."""

    name: str
    load_seconds: float

    @property
    def ready(self) -> bool: ...
    @property
    def stats(self) -> RequestStats: ...
    @property
    def engine(self) -> MeasuredEngine | None:
        """None: the model has none. This and `stats` are read only if the model is ready."""


class MeasuredPipeline(Protocol):
    """The values of a pipeline that metrics read. Implemented by `pipelines.served_pipeline.ServedPipeline`."""

    n_restarts: int

    @property
    def name(self) -> str: ...
    @property
    def n_running(self) -> int: ...
    @property
    def n_waiting(self) -> int: ...
    @property
    def memory(self) -> int:
        """Bytes."""


def _gauges(engine: MeasuredEngine) -> Iterator[tuple[str, str, float]]:
    yield "requests", "Requests in the engine: waiting, running or embedding.", engine.n_requests
    yield "sequences_running", "Sequences in the batch.", engine.n_running
    yield "sequences_waiting", "Sequences waiting for a slot in the batch.", engine.n_waiting
    yield "guides_waiting", "Guides waiting to be compiled.", engine.n_guides_waiting
    yield "kv_cells", "KV cells in total.", engine.n_cells
    yield (
        "kv_cells_used",
        "KV cells used by running sequences and cached prefixes.",
        engine.n_cells - engine.n_free_cells,
    )
    yield (
        "kv_tokens_running",
        "Tokens of running sequences that have KV cells; shared ones count for each sequence.",
        engine.n_running_tokens,
    )
    yield "context_tokens", "Maximum tokens of a sequence, prompt and completion together.", engine.n_ctx


class WorkerCollector(Collector):
    """Iterates over `models` and `pipelines` at each scrape."""

    def __init__(self, models: Iterable[MeasuredModel], pipelines: Iterable[MeasuredPipeline] = ()) -> None:
        self._models = models
        self._pipelines = pipelines

    def collect(self) -> Iterator[Metric]:
        info = GaugeMetricFamily(f"{_PREFIX}info", "Always 1; the label is the worker's version.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        ready = GaugeMetricFamily(f"{_PREFIX}model_ready", "1 if the model is ready, else 0.", labels=["model"])
        load_seconds = GaugeMetricFamily(
            f"{_PREFIX}model_load_seconds", "Time it took to load the model.", labels=["model"]
        )
        stats: dict[str, RequestStats] = {}
        engines: dict[str, MeasuredEngine] = {}
        for model in self._models:
            ready.add_metric([model.name], model.ready)
            if model.ready:
                load_seconds.add_metric([model.name], model.load_seconds)
                stats[model.name] = model.stats
                if engine := model.engine:
                    engines[model.name] = engine
        yield from (ready, load_seconds)
        yield from self._gauges(engines)
        yield from self._counts(stats, _COUNTERS, _HISTOGRAMS)
        yield from self._counts(
            {name: engine.stats for name, engine in engines.items()}, _ENGINE_COUNTERS, _ENGINE_HISTOGRAMS
        )
        yield from self._labelled_metrics(stats, engines)
        if pipelines := list(self._pipelines):
            yield from _pipeline_metrics(pipelines)

    def _gauges(self, engines: dict[str, MeasuredEngine]) -> Iterator[Metric]:
        gauges: dict[str, GaugeMetricFamily] = {}
        for name, engine in engines.items():
            for gauge, meaning, value in _gauges(engine):
                family = gauges.setdefault(gauge, GaugeMetricFamily(_PREFIX + gauge, meaning, labels=["model"]))
                family.add_metric([name], value)
        yield from gauges.values()

    def _counts(
        self, stats: Mapping[str, RequestStats], counters: dict[str, str], histograms: dict[str, str]
    ) -> Iterator[Metric]:
        for field, meaning in counters.items():
            counter = CounterMetricFamily(_PREFIX + field, meaning, labels=["model"])
            for name, counts in stats.items():
                counter.add_metric([name], getattr(counts, field))
            yield counter
        for field, meaning in histograms.items():
            histogram = HistogramMetricFamily(_PREFIX + field, meaning, labels=["model"])
            for name, counts in stats.items():
                _add_histogram(histogram, name, getattr(counts, field))
            yield histogram

    def _labelled_metrics(self, stats: dict[str, RequestStats], engines: dict[str, MeasuredEngine]) -> Iterator[Metric]:
        preemptions = CounterMetricFamily(
            f"{_PREFIX}preemptions", "Sequences preempted, to be computed again later.", labels=["model"]
        )
        background_preemptions = CounterMetricFamily(
            f"{_PREFIX}background_preemptions",
            "Sequences of background work preempted, to continue later; part of the preemptions.",
            labels=["model"],
        )
        requests_ended = CounterMetricFamily(
            f"{_PREFIX}requests_ended", "Requests that ended, by outcome.", labels=["model", "outcome"]
        )
        threads = GaugeMetricFamily(
            f"{_PREFIX}threads",
            "Threads for steps of at least this many tokens, up to the next larger value.",
            labels=["model", "step", "tokens"],
        )
        for name, counts in stats.items():
            for outcome, count in counts.outcomes.copy().items():
                requests_ended.add_metric([name, outcome], count)
        for name, engine in engines.items():
            preemptions.add_metric([name], engine.n_preempted)
            background_preemptions.add_metric([name], engine.n_background_preempted)
            for prompts, tokens, count in engine.threads_chosen:
                threads.add_metric([name, "prefill" if prompts else "decode", str(tokens)], count)
        yield from (preemptions, background_preemptions, requests_ended, threads)


def _pipeline_metrics(pipelines: list[MeasuredPipeline]) -> Iterator[Metric]:
    gauges = {
        "n_running": ("pipeline_requests_running", "Requests that the pipeline runs."),
        "n_waiting": ("pipeline_requests_waiting", "Requests that wait for a slot of the pipeline."),
        "memory": ("pipeline_memory_bytes", "Resident memory of the pipeline's process."),
    }
    for field, (gauge, meaning) in gauges.items():
        family = GaugeMetricFamily(_PREFIX + gauge, meaning, labels=["pipeline"])
        for pipeline in pipelines:
            family.add_metric([pipeline.name], getattr(pipeline, field))
        yield family
    restarts = CounterMetricFamily(
        f"{_PREFIX}pipeline_restarts",
        "Starts of the pipeline's process after the first one, because it ended, failed or had to be replaced.",
        labels=["pipeline"],
    )
    for pipeline in pipelines:
        restarts.add_metric([pipeline.name], pipeline.n_restarts)
    yield restarts


def _add_histogram(family: HistogramMetricFamily, model: str, histogram: Histogram) -> None:
    buckets, cumulative = [], 0
    for bound, count in zip((*histogram.bounds, inf), histogram.counts.copy(), strict=True):
        cumulative += count
        buckets.append(("+Inf" if bound == inf else str(float(bound)), float(cumulative)))
    family.add_metric([model], buckets, histogram.total)


class Metrics:
    def __init__(self, models: Iterable[MeasuredModel], pipelines: Iterable[MeasuredPipeline] = ()) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(WorkerCollector(models, pipelines))
        ProcessCollector(registry=self._registry)

    def text(self) -> bytes:
        return generate_latest(self._registry)
