"""`python -m tests.ops.leaks`: visits by the hundred or for minutes, and what worker and sidecar hold afterwards.

The pair serves with few places and few cells, so that a sequence or a cell that stays behind is missed at the end.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click

from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.census import Census, census
from tests.ops.client import Asking, End, ask, get
from tests.ops.visitors import STORY, Visitors

PLACES = 4
N_CTX = 512


class House:
    """The pair, and what is found in it."""

    def __init__(self, worker: servers.Process, address: str, sidecar: servers.Process, url: str) -> None:
        self.url = url
        self._address = address
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

    def capacity(self) -> list[End]:
        """As many requests as there are places, all at once, then one that takes all cells."""
        body = {"prompt": STORY, "max_tokens": 20, "ignore_eos": True}
        together = [Asking(self.url, body, "/v1/completions") for _ in range(PLACES)]
        ends = [one.end() for one in together]
        full = {"prompt": [1000] * (N_CTX - 2), "max_tokens": 2, "ignore_eos": True}
        return [*ends, ask(self.url, full, "/v1/completions")]


@contextmanager
def house() -> Iterator[House]:
    options = ("--n-ctx", str(N_CTX), "--parallel", str(PLACES), "--max-queue", "64")
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", *options) as (worker, address),
        servers.sidecar(address) as (sidecar, url),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield House(worker, address, sidecar, url)


@click.command()
@click.option("--visits", default=1000, show_default=True, help="How many.")
@click.option("--minutes", default=0.0, help="So long instead.")
@click.option("--seed", default=1, show_default=True)
def main(visits: int, minutes: float, seed: int) -> None:
    """Visits a pair, and reports what it holds while they go on. Exit status 1 if something went wrong."""
    with house() as home:
        visitors = Visitors(home.url, seed)
        began = time.monotonic()

        def over() -> bool:
            elapsed = time.monotonic() - began
            return elapsed > minutes * 60 if minutes else sum(visitors.came.values()) >= visits

        click.echo("seconds  visits  worker MiB  fds  sidecar MiB  fds")
        while not over():
            visitors.visit(200, until=over)
            home.wait_until_quiet()
            held = home.census()
            click.echo(
                f"{time.monotonic() - began:7.0f} {sum(visitors.came.values()):7d}"
                f" {held['worker'].resident:11d} {held['worker'].fds:4d}"
                f" {held['sidecar'].resident:12d} {held['sidecar'].fds:4d}"
            )
        click.echo(f"what clients did: {dict(visitors.came)}; what they were told: {dict(visitors.statuses)}")
        ends = home.capacity()
        problems = [*visitors.failures, *(str(end) for end in ends if not end.good)]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
