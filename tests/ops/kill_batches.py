"""`python -m tests.ops.kill_batches`: clients send files, uploads and batches to sidecars that are killed all the time.

The sidecars share a store and a folder of blobs. Clients record what was announced to them. At the end, the store must
have all of it, once, byte for byte.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.databases import POSTGRESQL, SQLITE, Database, database
from tests.ops.filed.checks import Checks, problems_of_blobs, problems_of_database, unfinished
from tests.ops.filed.client import FileClient
from tests.ops.filed.ledger import Ledger
from tests.ops.filed.traffic import visited
from tests.ops.filed.visitor import MOMENTS, Moments
from tests.ops.kill_sidecars import KEYS
from tests.ops.stored.pair import Sidecars, storing_sidecars

MAX_PAUSE_SECONDS = 2.0
"""Longest time that a sidecar lives after its first answer, if it is killed at random."""
AIMED = 0.6
"""Share of the kills that hit a moment of a client."""
MOMENT_SECONDS = 4.0
"""Longest time until such a moment."""
DELAY_SECONDS = 0.08
"""Longest time from the moment to the kill."""
BOTH = 0.2
"""Share of the kills that hit all sidecars."""


@dataclass
class Outcome:
    n_killed: int = 0
    aimed: Counter[str] = field(default_factory=Counter)
    """Kills by the moment at which they were aimed."""
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by kind, batches by status, and lines by their end."""
    n_cut: int = 0
    """Requests that were cut off."""
    n_announced: int = 0
    """Files and batches that were announced."""
    problems: list[str] = field(default_factory=list)


def run(store: Database, seed: int, *, seconds: float = 0, kills: int = 0, sidecars: int = 2) -> Outcome:
    """Kills sidecars for at least this time and this often, and returns what is wrong with the store at the end."""
    rng = random.Random(seed)
    ledgers = [Ledger(key) for key in KEYS]
    moments = Moments()
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as folder:
        blobs = Path(folder) / "blobs"
        with storing_sidecars(sidecars, store.url, KEYS, "--blobs", str(blobs)) as running:
            running.start_all(KEYS[0])
            with visited(running.ports, ledgers, seed, moments) as visitors:
                _kill(running, rng, moments, outcome, time.monotonic() + seconds, kills)
            outcome.counts = sum((visitor.counts for visitor in visitors), Counter())
            outcome.n_cut = sum(len(visitor.cuts) for visitor in visitors)
            outcome.problems += [problem for visitor in visitors for problem in visitor.problems]
            outcome.problems += _problems_at_the_end(store, running, ledgers, rng, outcome)
            running.end_all()
            outcome.problems += problems_of_database(store)
            outcome.problems += problems_of_blobs(store, blobs)
            outcome.n_killed = running.n_killed
        outcome.problems += running.errors
    outcome.n_announced = sum(bool(file.id) for ledger in ledgers for file in ledger.files)
    outcome.n_announced += sum(bool(batch.id) for ledger in ledgers for batch in ledger.batches)
    return outcome


def _kill(
    sidecars: Sidecars, rng: random.Random, moments: Moments, outcome: Outcome, deadline: float, kills: int
) -> None:
    pause = threading.Event()
    while time.monotonic() < deadline or sidecars.n_killed < kills:
        if rng.random() < AIMED:
            moment = rng.choice(MOMENTS)
            outcome.aimed[moment] += moments.wait(moment, MOMENT_SECONDS)
            pause.wait(rng.uniform(0, DELAY_SECONDS))
        else:
            pause.wait(rng.uniform(0, MAX_PAUSE_SECONDS))
        ports = sidecars.ports if rng.random() < BOTH else [rng.choice(sidecars.ports)]
        for port in ports:
            sidecars.kill(port)
        for port in ports:
            sidecars.start(port)
        for port in ports:
            sidecars.wait_until_warm(port, KEYS[0])


def _problems_at_the_end(
    store: Database, sidecars: Sidecars, ledgers: list[Ledger], rng: random.Random, outcome: Outcome
) -> list[str]:
    clients = [FileClient(sidecars.ports, ledger.key, rng) for ledger in ledgers]
    problems = unfinished(store)
    for ledger, client, stranger in zip(ledgers, clients, reversed(clients), strict=True):
        checks = Checks(ledger, client, stranger)
        problems += checks.run()
        outcome.counts += checks.counts
    for client in clients:
        client.close()
    return problems


@click.command()
@click.option("--seconds", default=300.0, show_default=True)
@click.option("--sidecars", default=2, show_default=True)
@click.option("--postgres", is_flag=True, help="PostgreSQL instead of an SQLite file.")
@click.option("--seed", type=int, help="Default: a random number, which is printed.")
def main(seconds: float, sidecars: int, postgres: bool, seed: int | None) -> None:
    """Exit status 1 if something announced is lost or stored twice, or visible to another key."""
    seed = random.randrange(10**6) if seed is None else seed
    kind = POSTGRESQL if postgres else SQLITE
    click.echo(f"seed {seed}, {kind}, {seconds:g} seconds, {sidecars} sidecars")
    with database(kind) as store:
        outcome = run(store, seed, seconds=seconds, sidecars=sidecars)
    click.echo(f"{outcome.n_killed} kills, aimed: {dict(outcome.aimed)}")
    click.echo(f"{outcome.n_cut} requests cut off, {outcome.n_announced} files and batches announced")
    click.echo(f"counts: {dict(outcome.counts)}")
    for problem in outcome.problems:
        click.echo(problem, err=True)
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
