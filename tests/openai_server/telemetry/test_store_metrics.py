import subprocess
import sys
from pathlib import Path

from openai_server.telemetry import sharing
from openai_server.telemetry.metrics import Metrics
from tests.wire.exposition import Scrape

PROCESS = """
import sys
from openai_server.telemetry.metrics import Metrics
metrics = Metrics()
metrics.store.set_up(sys.argv[1] == "up")
metrics.store.background.running(2)
metrics.store.background.recovered(requeued=1, failed=0)
if len(sys.argv) > 2:
    n = int(sys.argv[2])
    metrics.store.sizes(responses=n, conversations=1, bytes=10, queued=0, in_progress=0)
sys.stdout.buffer.write(metrics.text())
"""


def test_a_server_without_a_store_has_no_metrics_of_it() -> None:
    assert not [name for name in Scrape(Metrics().text()).names if "store" in name or "background" in name]


def test_transactions_are_counted_by_operation() -> None:
    metrics = Metrics()
    metrics.store.observe("begin", 0.002, True)
    metrics.store.observe("begin", 3.0, False)
    metrics.store.observe("finish", 0.004, True)
    scrape = Scrape(metrics.text())
    assert scrape.value("openai_server_store_seconds_count", operation="begin") == 2
    assert scrape.value("openai_server_store_seconds_bucket", operation="begin", le="0.0025") == 1
    assert scrape.value("openai_server_store_seconds_sum", operation="finish") == 0.004
    assert scrape.value("openai_server_store_failures_total") == 1


def test_the_store_is_up_if_the_last_transaction_was_answered() -> None:
    metrics = Metrics()
    for answered in (True, False, True):
        metrics.store.observe("response", 0.001, answered)
        assert Scrape(metrics.text()).value("openai_server_store_up") == answered


def test_recovered_and_running_responses_are_counted() -> None:
    metrics = Metrics()
    metrics.store.background.recovered(requeued=2, failed=1)
    metrics.store.background.running(3)
    metrics.store.background.running(-1)
    scrape = Scrape(metrics.text())
    assert scrape.value("openai_server_store_recovered_total", outcome="requeued") == 2
    assert scrape.value("openai_server_store_recovered_total", outcome="failed") == 1
    assert scrape.value("openai_server_background_running") == 2


def test_alerts_can_use_a_counter_before_its_first_event() -> None:
    metrics = Metrics()
    assert metrics.store
    outcomes = Scrape(metrics.text()).series("openai_server_store_recovered_total")
    assert {labels["outcome"] for labels in outcomes} == {"requeued", "failed"}


def test_processes_share_a_store_but_not_their_work(tmp_path: Path) -> None:
    """Sizes are those that were set last, and the store is down if one process can't reach it."""
    with sharing.shared(str(tmp_path)):
        for arguments in (("up", "3"), ("down", "4")):
            run(*arguments)
        scrape = Scrape(run("up"))
    assert scrape.value("openai_server_store_responses") == 4
    assert scrape.value("openai_server_store_up") == 0
    assert scrape.value("openai_server_background_running") == 6
    assert scrape.value("openai_server_store_recovered_total", outcome="requeued") == 3


def run(*arguments: str) -> bytes:
    """Runs a process of several that share their metrics, and returns its scrape."""
    return subprocess.run([sys.executable, "-c", PROCESS, *arguments], stdout=subprocess.PIPE, check=True).stdout
