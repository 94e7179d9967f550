"""`python -m tests.ops.hostile_bodies`: measures how bodies that are expensive to decode affect other requests.

The promise: while such bodies arrive continuously, `/livez` answers within 50 ms at p99, and the largest gap of a
running stream grows by at most 50 ms. The attacker, the backend and this process share the same processors.
"""

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

import click

from benchmarks import pace
from benchmarks.stats import percentile
from scripts.ports import free_port
from tests.e2e import servers
from tests.ops.census import census
from tests.ops.hostile import Attack, kinds

PROBE_SECONDS = 0.050
"""Seconds in which /livez must answer, at p99."""
GAP_SECONDS = 0.050
"""Seconds by which a stream's largest gap may grow."""
GROWTH_MIB = 192
"""MiB by which the sidecar itself may grow: --max-inflight-body-bytes, and half of that for the bodies being
decoded."""
PROBE_INTERVAL = 0.02
STEP_SECONDS = 0.02
"""Seconds between two tokens of the stream."""
BODY_BYTES, N_VALUES = 16 << 20, 1 << 20
"""The default limits of a body: bytes and JSON values."""

HEAD = """\
                                     requests   statuses                    livez ms              stream's gap    MiB
                                           /s                          p50     p99     max     p99     max   own  with helpers
"""  # noqa: E501 - a table


@dataclass
class Period:
    """Measurements of one period."""

    name: str
    seconds: float
    probes: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    own_mib: int = 0
    """Maximum MiB of the process that serves."""
    total_mib: int = 0
    """Maximum MiB including its helper processes."""

    def row(self) -> str:
        statuses = " ".join(f"{status}×{n}" for status, n in self.statuses.most_common(3))
        ms = [percentile(self.probes, percent) * 1000 for percent in (50, 99, 100)]
        gaps = [percentile(self.gaps, percent) * 1000 for percent in (99, 100)]
        return (
            f"{self.name:34}{self.statuses.total() / self.seconds:11.1f}   {statuses:24}"
            f"{ms[0]:6.1f}{ms[1]:8.1f}{ms[2]:8.1f}{gaps[0]:8.1f}{gaps[1]:8.1f}{self.own_mib:6d}{self.total_mib:8d}"
        )

    def broken(self, alone: "Period") -> Iterator[str]:
        if (slow_probe := percentile(self.probes, 99)) > PROBE_SECONDS:
            yield f"{self.name}: /livez took {slow_probe * 1000:.0f} ms at p99"
        if (gap := max(self.gaps)) > max(alone.gaps) + GAP_SECONDS:
            yield f"{self.name}: a gap of {gap * 1000:.0f} ms in a stream, {max(alone.gaps) * 1000:.0f} ms alone"
        if self.own_mib > alone.own_mib + GROWTH_MIB:
            yield f"{self.name}: the sidecar grew from {alone.own_mib} to {self.own_mib} MiB"


class Observer:
    """Observes a server from outside: with a probe, a reader of a stream, and a look at its memory."""

    def __init__(self, port: int, pid: int) -> None:
        self.port = port
        self._pid = pid

    def during(self, period: Period) -> Period:
        stop = threading.Event()
        threads = [threading.Thread(target=work, args=(period, stop)) for work in (self._probe, self._read, self._look)]
        for thread in threads:
            thread.start()
        time.sleep(period.seconds)
        stop.set()
        for thread in threads:
            thread.join()
        return period

    def _probe(self, period: Period, stop: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        while not stop.wait(PROBE_INTERVAL):
            began = time.perf_counter()
            connection.request("GET", "/livez")
            assert connection.getresponse().read() == b'{"status":"ok"}'
            period.probes.append(time.perf_counter() - began)
        connection.close()

    def _read(self, period: Period, stop: threading.Event) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        tokens = int((period.seconds + 60) / STEP_SECONDS)
        body = {"prompt": pace.prompt(tokens, STEP_SECONDS * 1000), "max_tokens": tokens, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body))
        response = connection.getresponse()
        assert response.status == 200, response.read()
        last_time: float | None = None
        while not stop.is_set() and (line := response.readline()):
            if line.startswith(b"data: "):
                now = time.perf_counter()
                if last_time is not None:
                    period.gaps.append(now - last_time)
                last_time = now
        assert stop.is_set(), "the stream has ended"
        response.close()
        connection.close()

    def _look(self, period: Period, stop: threading.Event) -> None:
        while not stop.wait(0.05):
            period.own_mib = max(period.own_mib, census(self._pid).resident)
            period.total_mib = max(period.total_mib, sum(resident(pid) for pid in family(self._pid)))


def family(pid: int) -> list[int]:
    """Returns the process ids of a process and its children."""
    pids = [pid]
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        pids += map(int, children.read().split())
    return pids


def resident(pid: int) -> int:
    """Returns MiB; 0 for a process that has just ended."""
    try:
        return census(pid).resident
    except (OSError, KeyError):
        return 0


@contextmanager
def under_attack(port: int, names: Sequence[str], size: int, values: int, connections: int) -> Iterator[Counter[str]]:
    """Attacks the port from another process until the block ends; then `statuses` has the counts of its responses."""
    statuses: Counter[str] = Counter()
    command = [sys.executable, "-m", "tests.ops.hostile_bodies", "--attack", str(port)]
    command += ["--size", str(size), "--values", str(values), "--connections", str(connections)]
    attacker = subprocess.Popen(
        [*command, *(word for name in names for word in ("--kind", name))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert attacker.stdout is not None
    assert attacker.stdout.readline() == "ready\n"
    yield statuses
    output, _ = attacker.communicate("", timeout=120)
    statuses.update(json.loads(output))


def attack(port: int, names: Sequence[str], size: int, values: int, connections: int) -> None:
    """Runs in the attacking process, until stdin is closed."""
    all_kinds = kinds(size, values)
    chosen = [all_kinds[name] for name in names]
    statuses: Counter[str] = Counter()
    stop = threading.Event()
    requests = Attack(chosen)

    def run() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                    while not stop.is_set():
                        connection.sendall(requests.next())
                        statuses[read_response(connection)] += 1
            except (OSError, http.client.HTTPException):
                statuses["cut"] += 1

    threads = [threading.Thread(target=run) for _ in range(connections)]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.read()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(statuses), flush=True)


def read_response(connection: socket.socket) -> str:
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.read()
    status = str(response.status)
    if response.will_close:
        connection.close()
    return status


@contextmanager
def served(*options: str) -> Iterator[Observer]:
    """Yields an observer of a sidecar whose backend answers at a steady pace."""
    port = free_port()
    backend = servers.Process(sys.executable, "-m", "benchmarks.fake_worker", str(port), "step-batches")
    try:
        with servers.sidecar(f"127.0.0.1:{port}", *options) as (sidecar, url):
            sidecar_port = int(url.rpartition(":")[2])
            servers.eventually(lambda: ready(sidecar_port))
            yield Observer(sidecar_port, sidecar.popen.pid)
    finally:
        backend.end(signal.SIGKILL)


def ready(port: int) -> bool:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200


def trial(
    names: Sequence[str], seconds: float, size: int, values: int, connections: int, *, mixed: bool = False
) -> Iterator[Period]:
    """Yields a period without an attack, then one under each kind (not if `mixed`), then one under all kinds mixed."""
    attacks = {} if mixed else {name: [name] for name in names}
    if len(names) > 1:
        attacks["all, mixed"] = list(names)
    with served() as observer:
        yield observer.during(Period("alone", seconds))
        for name, attack_names in attacks.items():
            with under_attack(observer.port, attack_names, size, values, connections) as statuses:
                period = observer.during(Period(name, seconds))
            period.statuses = statuses
            yield period


@click.command()
@click.option("--seconds", default=5.0, show_default=True, help="Seconds of each kind.")
@click.option("--connections", default=4, show_default=True, help="Connections that send the bodies.")
@click.option("--size", default=BODY_BYTES, show_default=True, help="Bytes of a body.")
@click.option("--values", default=N_VALUES, show_default=True, help="JSON values of bodies within the limits.")
@click.option("--kind", "names", multiple=True, help="Only this kind; repeatable.")
@click.option("--attack", "port", type=int, hidden=True)
def main(seconds: float, connections: int, size: int, values: int, names: tuple[str, ...], port: int | None) -> None:
    """Loads a sidecar with expensive bodies. Exit status 1 if they affect other requests more than promised."""
    names = names or tuple(kinds(4096, 100))
    if port is not None:
        attack(port, names, size, values, connections)
        return
    click.echo(HEAD, nl=False)
    alone: Period | None = None
    problems: list[str] = []
    for period in trial(names, seconds, size, values, connections):
        click.echo(period.row())
        alone = alone or period
        problems += period.broken(alone)
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
