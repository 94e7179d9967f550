"""Memory, processor time and open files of several processes. Any of them can report all, as it reads them from /proc.

The process id is a label. A sum would fall when a process ends, and Prometheus takes a counter that falls for one that
was reset.
"""

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector


class ProcessesCollector(Collector):
    """`processes` returns the ids of the running processes. A process that has ended since is left out."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for pid in self._processes():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [sample._replace(labels={"pid": str(pid)}) for sample in metric.samples]
        return families.values()
