import os

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from openai_server.telemetry.processes import ProcessesCollector
from tests.wire.exposition import Scrape

UNUSED_PID = 2**22 + 1
"""An id larger than that of any process."""


def test_metrics_are_labelled_by_process_id_and_ended_processes_are_left_out() -> None:
    registry = CollectorRegistry()
    registry.register(ProcessesCollector(lambda: [os.getpid(), os.getppid(), UNUSED_PID]))
    scrape = Scrape(generate_latest(registry))
    living = {str(os.getpid()), str(os.getppid())}
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_start_time_seconds"):
        assert {labels["pid"] for labels in scrape.series(name)} == living
    assert scrape.value("process_resident_memory_bytes", pid=str(os.getpid())) > 1e6
    assert scrape.value("process_open_fds", pid=str(os.getpid())) > 0
    assert scrape.families["process_cpu_seconds"].type == "counter"
