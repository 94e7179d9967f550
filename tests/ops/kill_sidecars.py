"""`python -m tests.ops.kill_sidecars`: clients of two sidecars with one store, one of which is killed at random points.

Clients record what was announced to them. At the end, the store must have all of it, once.
"""

import random
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

import click

from benchmarks.databases import KINDS, Database, database
from tests.ops.stored.account import Account
from tests.ops.stored.checks import Checks, problems_of_database, problems_of_deletion, problems_of_sweeping, unfinished
from tests.ops.stored.client import StoreClient
from tests.ops.stored.pair import Sidecars, storing_sidecars
from tests.ops.stored.traffic import visited

KEYS = ("key-of-the-first", "key-of-the-second")
MAX_PAUSE_SECONDS = 0.3
"""Longest time that a sidecar lives after its first answer."""
COLD_KILLS = 0.2
"""Share of the sidecars that are killed before their first answer."""
N_FIRST_STARTS = 3
MAX_START_SECONDS = 2.0
"""Longest time that these live."""


@dataclass
class Outcome:
    n_killed: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    """Requests by kind, and some outcomes."""
    n_cut: int = 0
    """Requests that were cut off."""
    n_announced: int = 0
    """Responses that were announced as stored."""
    problems: list[str] = field(default_factory=list)


def run(store: Database, seed: int, *, seconds: float = 0, kills: int = 0) -> Outcome:
    """Kills sidecars for at least this time and this often, and returns what is wrong with the store at the end."""
    rng = random.Random(seed)
    accounts = [Account(key) for key in KEYS]
    with storing_sidecars(2, store.url, KEYS) as sidecars:
        _kill_at_first_start(sidecars, rng)
        sidecars.start_all(KEYS[0])
        with visited(sidecars.ports, accounts, seed) as visitors:
            _kill(sidecars, rng, time.monotonic() + seconds, sidecars.n_killed + kills)
        outcome = Outcome(
            counts=sum((visitor.counts for visitor in visitors), Counter()),
            n_announced=sum(len(account.responses) for account in accounts),
            n_cut=sum(len(visitor.cuts) for visitor in visitors),
            problems=[problem for visitor in visitors for problem in visitor.problems],
        )
        outcome.problems += _problems_at_the_end(store, sidecars, accounts, rng)
        outcome.n_killed = sidecars.n_killed
    outcome.problems += sidecars.errors
    return outcome


def _kill_at_first_start(sidecars: Sidecars, rng: random.Random) -> None:
    """Both migrate the empty database; neither may leave half of the tables."""
    pause = threading.Event()
    for _ in range(N_FIRST_STARTS):
        for port in sidecars.ports:
            sidecars.start(port)
        pause.wait(rng.uniform(0, MAX_START_SECONDS))
        for port in sidecars.ports:
            sidecars.kill(port)


def _kill(sidecars: Sidecars, rng: random.Random, deadline: float, n_kills: int) -> None:
    pause = threading.Event()
    while time.monotonic() < deadline or sidecars.n_killed < n_kills:
        port = rng.choice(sidecars.ports)
        sidecars.kill(port)
        sidecars.start(port)
        if rng.random() < COLD_KILLS:
            pause.wait(rng.uniform(0, MAX_START_SECONDS))
            sidecars.kill(port)
            sidecars.start(port)
        sidecars.wait_until_warm(port, KEYS[0])
        pause.wait(rng.uniform(0, MAX_PAUSE_SECONDS))


def _problems_at_the_end(store: Database, sidecars: Sidecars, accounts: list[Account], rng: random.Random) -> list[str]:
    clients = [StoreClient(sidecars.ports, account.key, rng) for account in accounts]
    problems = unfinished(store)
    for account, client, stranger in zip(accounts, clients, reversed(clients), strict=True):
        problems += Checks(account, client, stranger).run()
    problems += problems_of_database(store)
    problems += problems_of_deletion(store, zip(KEYS, clients, strict=True))
    for client in clients:
        client.close()
    sidecars.end_all()
    store.execute("DELETE FROM leases")  # that of the sweeper, which a killed sidecar may have had
    sidecars.start(sidecars.ports[0])
    return problems + problems_of_sweeping(store)


@click.command()
@click.option("--minutes", default=5.0, show_default=True)
@click.option("--database", "kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True)
@click.option("--seed", type=int, help="Default: a random number, which is printed.")
def main(minutes: float, kind: str, seed: int | None) -> None:
    """Exit status 1 if something announced is lost or stored twice, or visible to another key."""
    seed = random.randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}, {kind}, {minutes:g} minutes")
    with database(kind) as store:
        outcome = run(store, seed, seconds=minutes * 60)
    click.echo(
        f"{outcome.n_killed} kills, {outcome.n_cut} requests cut off, {outcome.n_announced} stored responses announced"
    )
    click.echo(f"requests: {dict(outcome.counts)}")
    for problem in outcome.problems:
        click.echo(problem, err=True)
    sys.exit(bool(outcome.problems))


if __name__ == "__main__":
    main()
