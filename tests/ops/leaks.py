"""`python -m tests.ops.leaks`: thousands of clients that disconnect early, and what the pair still holds afterwards.

The pair has few slots and KV cells, so that a leaked slot or cell is noticed at the end.
"""

import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from scripts.ports import free_port
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.census import Census, census
from tests.ops.client import PendingRequest, Result, get, post
from tests.ops.traffic import COMPLETIONS, KEYS, STORY
from tests.ops.visitors import Visitors
from tests.wire.exposition import Scrape

SLOTS = 4
N_CTX = 512
GROWTH_MIB = 24
"""MiB by which a process may grow after its warm-up; leaked responses would take more in total."""
MORE_THREADS = 8
IDLE_METRICS = {
    "worker": (
        "anyserve_worker_requests",
        "anyserve_worker_sequences_running",
        "anyserve_worker_sequences_waiting",
        "anyserve_worker_kv_tokens_running",
    ),
    "sidecar": ("openai_server_requests_waiting", "openai_server_requests_running"),
}
"""Metrics that are 0 at rest, except that the request for the metrics itself counts as running."""


class ObservedPair:
    """The pair, and checks of what it holds."""

    def __init__(self, worker: servers.Process, address: str, metrics: str, sidecar: servers.Process, url: str) -> None:
        self.url = url
        self._address = address
        self._metrics = {"worker": metrics, "sidecar": url}
        self._pids = {"worker": worker.popen.pid, "sidecar": sidecar.popen.pid}

    def census(self) -> dict[str, Census]:
        return {name: census(pid) for name, pid in self._pids.items()}

    def wait_until_quiet(self) -> None:
        """Waits until the worker computes nothing."""
        with servers.stub(self._address) as service:

            def steps() -> int:
                return servers.statistics(service, "smollm2").execution_count

            def is_quiet() -> bool:
                before = steps()
                time.sleep(0.2)  # far longer than a step
                return steps() == before

            servers.eventually(is_quiet, 60)

    def problems(self, before: dict[str, Census], memory: int = GROWTH_MIB) -> list[str]:
        """Returns what is still held after all clients have gone, from metrics, from the system, and by filling the
        pair."""
        problems = [
            f"{program}: {metric} is {value}"
            for program, metrics in IDLE_METRICS.items()
            for metric in metrics
            if (value := self._scrape(program).value(metric)) != (metric == "openai_server_requests_running")
        ]
        problems += [str(result) for result in self._capacity() if not result.good]
        for program, current in self._settled(before).items():
            earlier = before[program]
            if current.fds > earlier.fds:
                problems.append(f"{program}: {current.fds} file descriptors, {earlier.fds} before")
            if current.resident > earlier.resident + memory:
                problems.append(f"{program}: {current.resident} MiB, {earlier.resident} before")
            if current.threads > earlier.threads + MORE_THREADS:
                problems.append(f"{program}: {current.threads} threads, {earlier.threads} before")
        return problems

    def _settled(self, before: dict[str, Census]) -> dict[str, Census]:
        """Returns the census after up to 10 s: the system closes connections later than clients do."""
        for _ in range(100):
            if all(current.fds <= before[name].fds for name, current in self.census().items()):
                break
            time.sleep(0.1)
        return self.census()

    def _scrape(self, program: str) -> Scrape:
        with urllib.request.urlopen(f"{self._metrics[program]}/metrics", timeout=10) as response:
            return Scrape(response.read())

    def _capacity(self) -> list[Result]:
        """Sends as many requests at once as there are slots, then one that needs all KV cells."""
        body = {"prompt": STORY, "max_tokens": 20, "ignore_eos": True}
        together = [PendingRequest(self.url, body, COMPLETIONS, key=KEYS[0]) for _ in range(SLOTS)]
        results = [request.result() for request in together]
        full = {"prompt": [1000] * (N_CTX - 2), "max_tokens": 2, "ignore_eos": True}
        return [*results, post(self.url, full, COMPLETIONS, key=KEYS[0])]


@contextmanager
def observed_pair(*sidecar_options: str) -> Iterator[ObservedPair]:
    port = free_port()
    options = ("--n-ctx", str(N_CTX), "--parallel", str(SLOTS), "--max-queue", "64", "--metrics-port", str(port))
    keys = [word for key in KEYS for word in ("--api-key", key)]
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", *options) as (worker, address),
        servers.sidecar(address, *keys, *sidecar_options) as (sidecar, url),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield ObservedPair(worker, address, f"http://127.0.0.1:{port}", sidecar, url)


def growth(values: Sequence[float]) -> str:
    """Formats the growth from the median of the first tenth to that of the last, with the minimum and maximum."""
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    return f"{first:.0f} → {last:.0f} MiB ({min(values)} to {max(values)})"


@click.command()
@click.option(
    "--visits",
    default=1000,
    show_default=True,
    help="Number of clients that disconnect before their response is complete.",
)
@click.option("--minutes", default=0.0, help="Run for this many minutes instead.")
@click.option("--warm-up", default=400, show_default=True, help="Visits before the first census.")
@click.option("--seed", default=1, show_default=True)
@click.option("--store", help="URL of a store for the sidecar. Default: none.")
def main(visits: int, minutes: float, warm_up: int, seed: int, store: str | None) -> None:
    """Visits a pair, and reports what it holds meanwhile. Exit status 1 if something is leaked."""
    with observed_pair(*(("--store", store) if store else ())) as observed:
        visitors = Visitors(observed.url, seed)
        visitors.visit(warm_up)
        observed.wait_until_quiet()
        before, n_before = observed.census(), visitors.n_disconnected
        began = time.monotonic()

        def is_over() -> bool:
            elapsed = time.monotonic() - began
            return elapsed > minutes * 60 if minutes else visitors.n_disconnected - n_before >= visits

        rows = [before]
        click.echo("seconds  visits  left early  worker MiB  fds  threads  sidecar MiB  fds  threads")
        while True:
            current, elapsed = rows[-1], time.monotonic() - began
            cells = [f"{elapsed:7.0f}{visitors.behaviours.total():8d}{visitors.n_disconnected:12d}"]
            cells += [
                f"{process_census.resident:11d}{process_census.fds:5d}{process_census.threads:9d}"
                for process_census in current.values()
            ]
            click.echo("  ".join(cells))
            if is_over():
                break
            visitors.visit(200, until=is_over)
            observed.wait_until_quiet()
            rows.append(observed.census())
        click.echo(f"behaviours of clients: {dict(visitors.behaviours)}; responses: {dict(visitors.statuses)}")
        for program in before:
            click.echo(f"memory of the {program}: {growth([row[program].resident for row in rows])}")
        problems = [*visitors.failures, *observed.problems(before)]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
