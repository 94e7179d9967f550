"""`python -m tests.ops.store_soak`: mixed traffic for minutes on a sidecar whose stored objects soon expire.

Neither the memory of the sidecar nor the size of the database may grow after the beginning.
"""

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import click

from benchmarks.databases import KINDS, Database, database
from tests.ops.census import census
from tests.ops.growth import GROWTH_MIB, MIB, growth, problems_of_memory, problems_of_size, second_half
from tests.ops.kill_sidecars import KEYS
from tests.ops.stored.account import Account
from tests.ops.stored.checks import eventually, left, problems_of_database
from tests.ops.stored.pair import Sidecars, storing_sidecars
from tests.ops.stored.traffic import visited

RETENTION_SECONDS = 40.0
SWEEP_SECONDS = 90.0
"""Time after the retention until everything is gone: two intervals of the sweeper, and the time that it takes."""
INTERVAL_SECONDS = 0.08
"""Time between two requests of a client, so that the number of stored objects doesn't depend on the machine's speed."""
SAMPLE_SECONDS = 1.0
DAY_SECONDS = 86400.0


@dataclass
class Soak:
    memory: list[float] = field(default_factory=list)
    """MiB of anonymous memory, each SAMPLE_SECONDS."""
    sizes: list[float] = field(default_factory=list)
    """MiB of the database, at the same times."""
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def run(store: Database, seed: int, seconds: float, retention: float, *, waits: bool) -> Soak:
    """`waits`: also waits until everything has expired and the database is empty again."""
    accounts = [Account(key) for key in KEYS]
    days = ("--store-retention", f"{retention / DAY_SECONDS:.8f}")
    soak = Soak()
    with storing_sidecars(1, store.url, KEYS, *days) as sidecars:
        sidecars.start_all(KEYS[0])
        with visited(sidecars.ports, accounts, seed, interval=INTERVAL_SECONDS) as visitors:
            _sample(soak, sidecars, store, accounts, seconds, retention)
        soak.counts = sum((visitor.counts for visitor in visitors), Counter())
        soak.problems = [problem for visitor in visitors for problem in (*visitor.problems, *visitor.cuts)]
        if waits and not eventually(lambda: not any(left(store)), retention + SWEEP_SECONDS):
            soak.problems.append(f"rows left after everything has expired: {left(store)}")
        soak.problems += problems_of_database(store)
    soak.problems += sidecars.errors
    return soak


def _sample(
    soak: Soak, sidecars: Sidecars, store: Database, accounts: Sequence[Account], seconds: float, retention: float
) -> None:
    [port] = sidecars.ports
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        threading.Event().wait(SAMPLE_SECONDS)
        soak.memory.append(census(sidecars.pid(port)).resident_bytes / MIB)
        soak.sizes.append(store.n_bytes() / MIB)
        for account in accounts:
            account.forget(time.monotonic() - retention / 2)  # clients use nothing that may expire meanwhile


def problems_of_growth(soak: Soak, limit_mib: float = GROWTH_MIB) -> list[str]:
    return [*problems_of_memory(soak.memory, limit_mib), *problems_of_size("database", soak.sizes)]


@click.command()
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--database", "kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True)
@click.option("--seed", type=int, help="Default: a random number, which is printed.")
def main(minutes: float, kind: str, seed: int | None) -> None:
    """Exit status 1 if memory or the database grows, or if an answer is wrong."""
    seed = random.randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}, {kind}, {minutes:g} minutes")
    with database(kind) as store:
        soak = run(store, seed, minutes * 60, RETENTION_SECONDS, waits=True)
    tenth = max(1, len(soak.memory) // 10)
    for name, values in (("memory", soak.memory), ("database", soak.sizes)):
        click.echo(f"MiB of {name}: {', '.join(f'{value:.1f}' for value in values[::tenth])}")
    click.echo(f"growth in the second half: {growth(second_half(soak.memory)):.2f} MiB")
    click.echo(f"requests: {dict(soak.counts)}")
    problems = [*soak.problems, *problems_of_growth(soak)]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
