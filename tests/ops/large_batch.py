"""`python -m tests.ops.large_batch`: validates a batch of 50,000 lines, and measures how long other requests wait.

Run it on a quiet machine: a pause of the sidecar's process counts as one of its event loop.
"""

import http.client
import json
import random
import sys
import tempfile
import threading
import time

import click

from benchmarks.databases import SQLITE, database
from tests.ops.filed.client import FileClient
from tests.ops.filed.visitor import BATCHES, FILES, MODEL
from tests.ops.stored.pair import storing_sidecars

KEY = "key-of-large-batches"
LIMIT_MS = 50.0
QUIET_SECONDS = 5.0
POLL_SECONDS = 0.02
PADDING = "x" * 3000
"""Characters of each prompt: 50,000 of them are a file of some 150 MB."""


class Probe:
    """Requests /livez again and again, in a thread. `longest`: seconds of the slowest answer since `restart`."""

    def __init__(self, port: int) -> None:
        self.longest = 0.0
        self._stop = threading.Event()
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def restart(self) -> None:
        self.longest = 0.0

    def end(self) -> None:
        self._stop.set()
        self._thread.join()
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.wait(0.001):
            began = time.perf_counter()
            self._connection.request("GET", "/livez")
            self._connection.getresponse().read()
            self.longest = max(self.longest, time.perf_counter() - began)


def line(number: int) -> str:
    body = {"model": MODEL, "prompt": f"{number} {PADDING}"}
    return json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body})


@click.command()
@click.option("--lines", default=50_000, show_default=True)
def main(lines: int) -> None:
    """Exit status 1 if the batch isn't valid, or if an answer took more than 50 ms longer than without it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        database(SQLITE) as store,
        storing_sidecars(1, store.url, [KEY], "--blobs", f"{folder}/blobs") as sidecars,
    ):
        sidecars.start_all(KEY)
        client = FileClient(sidecars.ports, KEY, random.Random(0))
        content = "\n".join(map(line, range(lines))).encode()
        file = client.send_file(FILES, {"purpose": "batch"}, content).body["id"]
        probe = Probe(sidecars.ports[0])
        threading.Event().wait(QUIET_SECONDS)
        quiet = probe.longest
        probe.restart()
        began = time.monotonic()
        body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
        id = client.call("POST", BATCHES, body).body["id"]
        while (batch := client.call("GET", f"{BATCHES}/{id}").body)["status"] == "validating":
            threading.Event().wait(POLL_SECONDS)
        seconds, longest = time.monotonic() - began, probe.longest
        client.call("POST", f"{BATCHES}/{id}/cancel")
        probe.end()
        client.close()
    click.echo(
        f"{lines} lines, {len(content) >> 20} MiB: {seconds:.1f} s; longest answer {1e3 * longest:.1f} ms, "
        f"{1e3 * quiet:.1f} ms without the batch"
    )
    is_valid = batch["request_counts"]["total"] == lines
    if not is_valid:
        click.echo(f"the batch: {batch}", err=True)
    sys.exit(not is_valid or 1e3 * (longest - quiet) > LIMIT_MS)


if __name__ == "__main__":
    main()
