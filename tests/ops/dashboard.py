"""`python -m tests.ops.dashboard`: draws the Grafana dashboard with three minutes of a pair under load.

Prometheus scrapes both programs each second and runs the dashboard's own queries; it must be on the PATH.
"""

import asyncio
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import click

from scripts.ports import free_port
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops import picture
from tests.ops.arrivals import StreamClient, open_loop
from tests.ops.client import get
from tests.ops.prometheus import Series, prometheus
from tests.ops.traffic import KEYS
from tests.ops.visitors import Visitors

ROOT = Path(__file__).parents[2]
DASHBOARD = ROOT / "deploy" / "grafana" / "anyserve.json"
WORKER = ("--n-ctx", "512", "--kv-cells", "512", "--parallel", "8", "--prompt-lookup", "4")
"""Few KV cells, so that sequences are preempted at times."""
SIDECAR = ("--max-concurrency", "12", "--max-queue", "12")
RATE_INTERVAL = "10s"
SETTLE_SECONDS = 10
"""Seconds at the beginning that are not shown: rates need a second scrape, and a process's first requests are slow."""
PHASES = ((0.2, 1, 0.5), (0.3, 4, 2.0), (0.3, 8, 20.0), (0.2, 1, 0.5))
"""Quiet, busy, overload, quiet: share of the time, concurrent visitors, and streams per second beside them."""


@contextmanager
def pair() -> Iterator[tuple[str, dict[str, str]]]:
    """Yields the sidecar's URL, and the host:port of each program's metrics."""
    port = free_port()
    keys = [word for key in KEYS for word in ("--api-key", key)]
    model = f"smollm2={smollm2_path()}"
    with (
        tempfile.TemporaryDirectory() as folder,
        servers.worker("--model", model, *WORKER, "--metrics-port", str(port)) as (_, address),
        servers.sidecar(address, *SIDECAR, *keys, "--store", f"sqlite:///{folder}/store.db") as (_, url),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield url, {"sidecar": urlsplit(url).netloc, "worker": f"127.0.0.1:{port}"}


def drive(url: str, seconds: float) -> None:
    """Sends requests of all kinds, and streams with another key."""
    for seed, (share, n_visitors, rate) in enumerate(PHASES):
        deadline = time.monotonic() + seconds * share
        visitors = Visitors(url, seed, n_visitors)
        thread = threading.Thread(
            target=visitors.visit, args=(1_000_000,), kwargs={"until": _past(deadline)}, daemon=True
        )
        thread.start()
        asyncio.run(open_loop(StreamClient(url, KEYS[1], 60, seed), rate, seconds * share, seed))
        thread.join()


def _past(moment: float) -> Callable[[], bool]:
    return lambda: time.monotonic() > moment


@click.command()
@click.option("--seconds", default=180.0, show_default=True, help="Seconds of load that the picture shows.")
@click.option("--output", type=click.Path(path_type=Path), default=ROOT / "docs" / "dashboard.png", show_default="docs")
def main(seconds: float, output: Path) -> None:
    """Draws the dashboard with Prometheus' data about a pair under load. Exit status 1 if a panel is empty."""
    with pair() as (url, targets), prometheus(targets) as database:
        time.sleep(3)
        began = time.time()
        drive(url, SETTLE_SECONDS + seconds)
        ended = time.time()

        def query(expression: str) -> list[Series]:
            start = began + SETTLE_SECONDS
            results = database.query_range(expression, start, ended, step=1)
            return [Series(series.labels, [at - start for at in series.times], series.values) for series in results]

        variables = {"__rate_interval": RATE_INTERVAL, "sidecar": "sidecar", "worker": "worker", "model": "smollm2"}
        panels = picture.panels(DASHBOARD, variables, query)
    picture.draw(panels, "AnyServe", output)
    empty = [panel.title for panel in panels if panel.kind != "row" and panel.empty]
    for title in empty:
        click.echo(f"empty: {title}", err=True)
    sys.exit(bool(empty))


if __name__ == "__main__":
    main()
