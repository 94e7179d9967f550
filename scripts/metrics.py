"""The tables of docs/metrics.md, printed from the metrics that both programs define."""

from collections.abc import Iterable, Iterator

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.parser import text_string_to_metric_families

from anyserve_worker.engine.stats import EngineStats
from anyserve_worker.telemetry.metrics import WorkerCollector
from openai_server.core.load import BackendLoad
from openai_server.core.request_context import RequestContext
from openai_server.core.usage import Usage
from openai_server.telemetry import load
from openai_server.telemetry.metrics import VLLM, Metrics

HEADER = "metric | type | labels | meaning"
Row = tuple[str, ...]


class _Engine:
    """A MeasuredEngine with one sample of every series."""

    n_cells = n_ctx = n_requests = n_running = n_waiting = 0
    n_guides_waiting = n_preempted = n_background_preempted = n_running_tokens = n_free_cells = 0
    threads_chosen = [(False, 1, 1)]  # noqa: RUF012  # read only

    def __init__(self) -> None:
        self.stats = EngineStats()
        self.stats.outcomes["stop"] = 1


class _Model:
    name = "model"
    load_seconds = 0.0
    ready = True
    engine = _Engine()
    stats = engine.stats


class _Pipeline:
    name = "pipeline"
    n_running = n_waiting = n_restarts = memory = 0


def sidecar() -> Iterator[Row]:
    metrics = Metrics()
    _ = metrics.store  # defines its metrics
    # prometheus_client exports a metric with labels only once it has a sample, so its definition is read instead.
    for metric in metrics._registry._collector_to_names:
        if isinstance(metric, MetricWrapperBase):
            yield _row(metric._name, metric._type or "", metric._labelnames, metric._documentation)
    for name, meaning in load.MEANINGS.items():
        yield _row(name, "gauge", (), meaning)


def vllm() -> Iterator[Row]:
    """The metrics under vLLM's names. Those with `model_name` for each model have one sample here."""
    metrics = Metrics([VLLM])
    context = RequestContext(
        operation="chat", model="model", status=200, stream=True, choices=1, finish_reasons=["stop"], first_token=0
    )
    context.usage = Usage(1, 2, 1)
    metrics.end([context])
    families = text_string_to_metric_families(metrics.text(BackendLoad(kv_cells=1), "model").decode())
    for family in families:
        if family.name.startswith("vllm:"):
            labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
            yield _row(family.name, family.type, labels, family.documentation)


def worker() -> Iterator[Row]:
    for family in WorkerCollector([_Model()], [_Pipeline()]).collect():
        labels = dict.fromkeys(label for sample in family.samples for label in sample.labels if label != "le")
        yield _row(family.name, family.type, labels, family.documentation)


def _row(name: str, kind: str, labels: Iterable[str], meaning: str) -> Row:
    suffix = "_total" if kind == "counter" else ""
    return f"`{name}{suffix}`", kind, ", ".join(f"`{label}`" for label in labels), meaning
