"""Memory, processor time and open files of each of several processes, told by whichever is asked: /proc has them all.

Told apart by their ids. A sum would fall when one of them dies, and Prometheus takes a counter that falls for one that
began anew.
"""

from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector


class ProcessesCollector(Collector):
    """`processes` gives the ids of those that live. One that is gone by now is left out."""

    def __init__(self, processes: Callable[[], Iterable[int]]) -> None:
        self._processes = processes

    def collect(self) -> Iterable[Metric]:
        families: dict[str, Metric] = {}
        for pid in self._processes():
            for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
                family = families.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
                family.samples += [sample._replace(labels={"pid": str(pid)}) for sample in metric.samples]
        return families.values()
