"""The load of this server and its backends together, as gauges without labels for a gateway's endpoint picker. PURE.

A request counts once. It is queued while it waits for a slot of this server or, as a sequence, in a backend. It runs
while the backend generates its answer; where a backend doesn't report that, while this server waits for the answer.
"""

from collections.abc import Iterable, Mapping

from prometheus_client import Metric
from prometheus_client.metrics_core import GaugeMetricFamily

from openai_server.core.load import BackendLoad

OWN_QUEUE = "openai_server_requests_queued"
UNREPORTED = "openai_server_requests_unreported"
QUEUED, RUNNING, KV_USAGE = "openai_server_load_queued", "openai_server_load_running", "openai_server_load_kv_usage"
KV_CELLS = "openai_server_load_kv_cells"
MEANINGS: Mapping[str, str] = {
    QUEUED: "Requests queued for a slot, and sequences that wait in the backends; absent if the backends are silent.",
    RUNNING: "Sequences that the backends generate, and requests at backends that don't report them; absent likewise.",
    KV_USAGE: "Fraction of the backends' KV cells that running sequences use, 0 to 1; absent if no backend reports it.",
    KV_CELLS: "KV cells of the backends that report them, one for each token.",
}


def families(own: Iterable[Metric], reported: BackendLoad | None) -> list[Metric]:
    """The gauges. `own` are the sums over all processes, `reported` is the load of the backends; None is unknown."""
    if reported is None:
        return []
    values = {sample.name: sample.value for family in own for sample in family.samples if not sample.labels}
    gauges = {
        QUEUED: values.get(OWN_QUEUE, 0) + reported.waiting,
        RUNNING: values.get(UNREPORTED, 0) + reported.running,
    }
    if (usage := reported.kv_usage) is not None:
        gauges |= {KV_USAGE: usage, KV_CELLS: reported.kv_cells}
    return [GaugeMetricFamily(name, MEANINGS[name], value=value) for name, value in gauges.items()]
