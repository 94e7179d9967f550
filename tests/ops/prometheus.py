"""Runs a Prometheus on loopback, and queries it."""

import json
import shutil
import tempfile
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import click

from scripts.ports import free_port
from tests.e2e import servers


@dataclass(frozen=True)
class Series:
    labels: Mapping[str, str]
    times: list[float]
    values: list[float]


class Prometheus:
    def __init__(self, url: str) -> None:
        self._url = url

    def query_range(self, expression: str, start: float, end: float, step: float) -> list[Series]:
        parameters = urllib.parse.urlencode({"query": expression, "start": start, "end": end, "step": step})
        with urllib.request.urlopen(f"{self._url}/api/v1/query_range?{parameters}", timeout=30) as response:
            results = json.load(response)["data"]["result"]
        return [
            Series(
                result["metric"], [at for at, _ in result["values"]], [float(value) for _, value in result["values"]]
            )
            for result in results
        ]


@contextmanager
def prometheus(targets: Mapping[str, str], interval_s: int = 1) -> Iterator[Prometheus]:
    """Scrapes the targets (job → host:port). Raises ClickException if Prometheus is not installed."""
    program = shutil.which("prometheus")
    if program is None:
        raise click.ClickException("there is no program `prometheus` on the PATH: install it first")
    jobs = [{"job_name": job, "static_configs": [{"targets": [target]}]} for job, target in targets.items()]
    times = {"scrape_interval": f"{interval_s}s", "scrape_timeout": f"{interval_s}s"}
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "prometheus.yml"
        config.write_text(json.dumps({"global": times, "scrape_configs": jobs}))  # JSON is YAML as well
        address = f"127.0.0.1:{free_port()}"
        options = (f"--config.file={config}", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={address}")
        process = servers.Process(program, *options)
        try:
            process.wait_for("Server is ready to receive web requests")
            yield Prometheus(f"http://{address}")
        finally:
            process.end()
