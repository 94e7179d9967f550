"""`python -m tests.ops.leaks`: clients that leave by the thousand or for minutes, and what the pair holds afterwards.

The pair serves with few places and few cells, so that a sequence or a cell that stays behind is missed at the end.
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
from tests.ops.client import Asking, End, ask, get
from tests.ops.traffic import COMPLETIONS, KEYS, STORY
from tests.ops.visitors import Visitors
from tests.wire.exposition import Scrape

PLACES = 4
N_CTX = 512
MEMORY = 24
"""MiB by which a process may grow after its first visitors; visits that leave their answers behind cost more in all."""
THREADS = 8
AT_REST = {
    "worker": (
        "anyserve_worker_requests",
        "anyserve_worker_sequences_running",
        "anyserve_worker_sequences_waiting",
        "anyserve_worker_kv_tokens_running",
    ),
    "sidecar": ("openai_server_requests_waiting", "openai_server_requests_running"),
}
"""What is 0 when nobody is served, but who asks for it."""


class House:
    """The pair, and what is found in it."""

    def __init__(self, worker: servers.Process, address: str, metrics: str, sidecar: servers.Process, url: str) -> None:
        self.url = url
        self._address = address
        self._metrics = {"worker": metrics, "sidecar": url}
        self._pids = {"worker": worker.popen.pid, "sidecar": sidecar.popen.pid}

    def census(self) -> dict[str, Census]:
        return {name: census(pid) for name, pid in self._pids.items()}

    def wait_until_quiet(self) -> None:
        """Nothing is computed any more."""
        with servers.stub(self._address) as service:

            def steps() -> int:
                return servers.statistics(service, "smollm2").execution_count

            def quiet() -> bool:
                before = steps()
                time.sleep(0.2)  # far longer than a step takes
                return steps() == before

            servers.eventually(quiet, 60)

    def problems(self, before: dict[str, Census], memory: int = MEMORY) -> list[str]:
        """What is still held when all have left: by the programs' own account, by the system's, and by trying."""
        found = [
            f"{program}: {metric} is {value}"
            for program, metrics in AT_REST.items()
            for metric in metrics
            if (value := self._scrape(program).value(metric)) != (metric == "openai_server_requests_running")
        ]
        found += [str(end) for end in self._capacity() if not end.good]
        for program, now in self._settled(before).items():
            then = before[program]
            if now.fds > then.fds:
                found.append(f"{program}: {now.fds} file descriptors, {then.fds} before")
            if now.resident > then.resident + memory:
                found.append(f"{program}: {now.resident} MiB, {then.resident} before")
            if now.threads > then.threads + THREADS:
                found.append(f"{program}: {now.threads} threads, {then.threads} before")
        return found

    def _settled(self, before: dict[str, Census]) -> dict[str, Census]:
        """After a moment: the system closes connections later than clients do."""
        for _ in range(100):
            if all(now.fds <= before[name].fds for name, now in self.census().items()):
                break
            time.sleep(0.1)
        return self.census()

    def _scrape(self, program: str) -> Scrape:
        with urllib.request.urlopen(f"{self._metrics[program]}/metrics", timeout=10) as answer:
            return Scrape(answer.read())

    def _capacity(self) -> list[End]:
        """As many requests as there are places, all at once, then one that takes all cells."""
        body = {"prompt": STORY, "max_tokens": 20, "ignore_eos": True}
        together = [Asking(self.url, body, COMPLETIONS, key=KEYS[0]) for _ in range(PLACES)]
        ends = [one.end() for one in together]
        full = {"prompt": [1000] * (N_CTX - 2), "max_tokens": 2, "ignore_eos": True}
        return [*ends, ask(self.url, full, COMPLETIONS, key=KEYS[0])]


@contextmanager
def house() -> Iterator[House]:
    port = free_port()
    options = ("--n-ctx", str(N_CTX), "--parallel", str(PLACES), "--max-queue", "64", "--metrics-port", str(port))
    keys = [word for key in KEYS for word in ("--api-key", key)]
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", *options) as (worker, address),
        servers.sidecar(address, *keys) as (sidecar, url),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield House(worker, address, f"http://127.0.0.1:{port}", sidecar, url)


def growth(values: Sequence[float]) -> str:
    """From the median of the first tenth to that of the last, between the least and the most."""
    tenth = max(1, len(values) // 10)
    first, last = statistics.median(values[:tenth]), statistics.median(values[-tenth:])
    return f"{first:.0f} → {last:.0f} MiB ({min(values)} to {max(values)})"


@click.command()
@click.option("--visits", default=1000, show_default=True, help="How many clients leave before their answer has come.")
@click.option("--minutes", default=0.0, help="So long instead.")
@click.option("--warm-up", default=400, show_default=True, help="Visits before it counts what the pair holds.")
@click.option("--seed", default=1, show_default=True)
def main(visits: int, minutes: float, warm_up: int, seed: int) -> None:
    """Visits a pair, and reports what it holds while they go on. Exit status 1 if something stays behind."""
    with house() as home:
        visitors = Visitors(home.url, seed)
        visitors.visit(warm_up)
        home.wait_until_quiet()
        before, n_before = home.census(), visitors.n_left
        began = time.monotonic()

        def over() -> bool:
            elapsed = time.monotonic() - began
            return elapsed > minutes * 60 if minutes else visitors.n_left - n_before >= visits

        rows = [before]
        click.echo("seconds  visits  left early  worker MiB  fds  threads  sidecar MiB  fds  threads")
        while True:
            now, elapsed = rows[-1], time.monotonic() - began
            cells = [f"{elapsed:7.0f}{visitors.came.total():8d}{visitors.n_left:12d}"]
            cells += [f"{each.resident:11d}{each.fds:5d}{each.threads:9d}" for each in now.values()]
            click.echo("  ".join(cells))
            if over():
                break
            visitors.visit(200, until=over)
            home.wait_until_quiet()
            rows.append(home.census())
        click.echo(f"what clients did: {dict(visitors.came)}; what they were told: {dict(visitors.statuses)}")
        for program in before:
            click.echo(f"memory of the {program}: {growth([row[program].resident for row in rows])}")
        problems = [*visitors.failures, *home.problems(before)]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
