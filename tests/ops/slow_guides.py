"""`python -m tests.ops.slow_guides`: measures how guides that compile slowly affect other requests. Prints seconds.

`--beside DIR` measures the worker of another checkout in turn with this one, as a table of before and now.
"""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks import machine
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.client import PendingRequest, Result, post

ROOT = Path(__file__).parents[2]
N_SLOW = 24
N_ORDINARY = 20
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
_numbers = count()


def slow(i: int) -> dict[str, Any]:
    return {**CHAT, "json_schema": {"type": "integer", "multipleOf": 999_983 - 2 * i}}


def ordinary(i: int) -> dict[str, Any]:
    properties = {f"field_{k}": {"type": kind} for k, kind in enumerate(("string", "integer", "boolean"))}
    schema = {"type": "object", "properties": {**properties, f"number_{i}": {"type": "number"}}}
    return {**CHAT, "json_schema": {**schema, "required": list(properties), "additionalProperties": False}}


@contextlib.contextmanager
def pair(checkout: Path) -> Iterator[str]:
    """Runs the worker of a checkout behind this checkout's sidecar; yields the sidecar's URL."""
    command = (sys.executable, "-m", "anyserve_worker", "--port", "0", "--model", str(smollm2_path()), "--n-ctx", "512")
    process = servers.Process("sh", "-c", 'cd "$0" && exec "$@"', str(checkout), *command)
    try:
        address = "127.0.0.1:" + process.wait_for(r"listening on 127\.0\.0\.1:(\d+)")[1]
        process.wait_for(r"server: ready: ")
        with servers.sidecar(address) as (_, url):
            yield url
    finally:
        process.end()


@dataclass
class Times:
    """Seconds by measurement; and the statuses of the slow requests, counted."""

    seconds: dict[str, float] = field(default_factory=dict)
    statuses: dict[str, dict[int, int]] = field(default_factory=dict)


def expect(result: Result, *statuses: int) -> float:
    if result.status not in statuses or result.failure:
        raise click.ClickException(f"unexpected result: {result}")
    return result.seconds


def measure(url: str) -> Times:
    times = Times()

    def note(name: str, seconds: float) -> None:
        times.seconds[name] = seconds

    note("slow guide alone, cold", expect(post(url, slow(next(_numbers))), 400))
    note("quick guide behind it", expect(post(url, {**CHAT, "regex": "[ab]"}), 200))
    note("slow guide alone, again", expect(post(url, slow(next(_numbers))), 400))
    plain = [expect(post(url, CHAT), 200) for _ in range(N_ORDINARY)]
    new = [expect(post(url, ordinary(i)), 200) for i in range(N_ORDINARY)]
    same = [expect(post(url, ordinary(0)), 200) for _ in range(N_ORDINARY)]
    note("no guide (median)", median(plain))
    note("ordinary new guide (median)", median(new))
    note("ordinary guide again (median)", median(same))
    for name, guides in (
        (f"quick behind {N_SLOW} equal slow", [slow(next(_numbers))] * N_SLOW),
        (f"quick behind {N_SLOW} distinct slow", [slow(next(_numbers)) for _ in range(N_SLOW)]),
    ):
        began = time.monotonic()
        requests = [PendingRequest(url, guide, timeout=120) for guide in guides]
        time.sleep(0.3)
        note(name, expect(post(url, {**CHAT, "regex": f"[ab{next(_numbers)}]"}, timeout=120), 200))
        results = [request.result() for request in requests]
        for result in results:
            expect(result, 400, 429)
        note(f"{name}: all answered", time.monotonic() - began)
        statuses = [result.status for result in results]
        times.statuses[name] = {status: statuses.count(status) for status in sorted(set(statuses))}
    return times


@click.command(help=__doc__)
@click.option("--beside", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="DIR")
@click.option("--rounds", default=3, type=click.IntRange(min=1), metavar="N")
def main(beside: Path | None, rounds: int) -> None:
    checkouts = [*([beside.resolve()] if beside else []), ROOT]
    times_by_checkout: dict[Path, list[Times]] = {checkout: [] for checkout in checkouts}
    for _ in range(rounds):
        for checkout in checkouts:
            with pair(checkout) as url:
                times_by_checkout[checkout].append(measure(url))
    names = list(times_by_checkout[ROOT][0].seconds)
    place = machine.stamp()
    columns = "before, now" if beside else "now"
    print(f"{place['cpu']}, {place['cores']} cores, load {place['load_before']}")
    print(f"seconds, the median of {rounds} rounds: {columns}")
    for name in names:
        row = [median(times.seconds[name] for times in times_by_checkout[checkout]) for checkout in checkouts]
        print(f"{name:42}" + "".join(f"{seconds:10.3f}" for seconds in row))
    for name in times_by_checkout[ROOT][0].statuses:
        print(f"{name}: statuses of slow requests {[times.statuses[name] for times in times_by_checkout[ROOT]]}")


if __name__ == "__main__":
    main()
