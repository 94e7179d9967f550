"""`python -m tests.ops.batch_soak`: files, uploads and batches for minutes on one sidecar, which deletes them again.

Neither the memory of the sidecar, nor the database, nor the folder of the blobs may grow after the beginning.
"""

import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import click

from benchmarks.databases import KINDS, Database, database
from tests.ops.census import census
from tests.ops.filed.batches import list_batches, run_batch, try_another_key
from tests.ops.filed.checks import Checks, problems_of_blobs, problems_of_database, unfinished
from tests.ops.filed.client import FileClient
from tests.ops.filed.files import create_file, list_files, read_file, upload_in_parts
from tests.ops.filed.ledger import FINAL, KnownFile, Ledger
from tests.ops.filed.traffic import Kind, visited
from tests.ops.filed.visitor import BATCHES, FILES, Moments
from tests.ops.growth import GROWTH_MIB, MIB, growth, problems_of_memory, problems_of_size, second_half
from tests.ops.kill_sidecars import KEYS
from tests.ops.stored.model import Deletion
from tests.ops.stored.pair import Sidecars, storing_sidecars

INTERVAL_SECONDS = 0.25
"""Time between two requests of a client, so that the number of objects doesn't depend on the machine's speed."""
SAMPLE_SECONDS = 1.0
MIN_SAMPLES = 8
N_FILES = 60
"""Files of a key, above which the oldest ones are deleted."""
KINDS_OF_REQUESTS: dict[Kind, int] = {
    create_file: 25,
    upload_in_parts: 20,
    read_file: 25,
    list_files: 5,
    run_batch: 20,
    list_batches: 2,
    try_another_key: 5,
}


@dataclass
class Soak:
    memory: list[float] = field(default_factory=list)
    """MiB of anonymous memory, each SAMPLE_SECONDS."""
    blobs: list[float] = field(default_factory=list)
    """MiB of their folder, at the same times."""
    database: list[float] = field(default_factory=list)
    """MiB of the database, at the same times."""
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)


def run(store: Database, seed: int, seconds: float) -> Soak:
    ledgers = [Ledger(key) for key in KEYS]
    soak = Soak()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "blobs"
        with storing_sidecars(1, store.url, KEYS, "--blobs", str(folder)) as sidecars:
            sidecars.start_all(KEYS[0])
            tidiers = _tidiers(sidecars, ledgers, seed)
            with visited(
                *(sidecars.ports, ledgers, seed, Moments()),
                interval=INTERVAL_SECONDS,
                slowness=0,
                kinds=KINDS_OF_REQUESTS,
            ) as visitors:
                _sample(soak, sidecars, store, folder, tidiers, seconds)
            soak.counts = sum((visitor.counts for visitor in visitors), Counter())
            soak.problems = [problem for visitor in visitors for problem in (*visitor.problems, *visitor.cuts)]
            if soak.problems:
                soak.problems += [f"log: {sidecars.log(port)[-2000:]}" for port in sidecars.ports]
            soak.problems += unfinished(store)
            for tidier in tidiers:
                tidier.tidy(n_files=0)
                soak.counts += tidier.checks.counts
                soak.problems += tidier.checks.problems
            for tidier in tidiers:  # each uses the client of the other, too
                tidier.close()
            sidecars.end_all()
            soak.problems += problems_of_database(store)
            soak.problems += problems_of_blobs(store, folder)
            left = [file for file in folder.rglob("??/*") if file.is_file()]
            if left:
                soak.problems.append(f"{len(left)} blobs are left after all files were deleted")
        soak.problems += sidecars.errors
    return soak


class Tidier:
    """Checks the batches of a key that have ended, and deletes their files and the oldest others."""

    def __init__(self, ledger: Ledger, client: FileClient, stranger: FileClient) -> None:
        self.checks = Checks(ledger, client, stranger)
        self._ledger = ledger
        self._client = client

    def tidy(self, n_files: int = N_FILES) -> None:
        """Leaves this number of files."""
        for batch in self._ledger.announced_batches():
            body = self._client.call("GET", f"{BATCHES}/{batch.id}").body
            if body["status"] in FINAL:
                self.checks.check_batch(batch, body)
                self._ledger.forget_batch(batch)
                for id in (body.get("output_file_id"), body.get("error_file_id")):
                    if id is not None:
                        self._delete(id)
                self._delete_known(batch.input)
        others = [file for file in self._ledger.announced_files() if file.purpose != "batch"]
        for file in others[: max(0, len(others) - n_files)]:
            self._delete_known(file)

    def close(self) -> None:
        self._client.close()

    def _delete_known(self, file: KnownFile) -> None:
        file.deletion = Deletion.ANNOUNCED
        self._delete(file.id)
        self._ledger.forget(file)

    def _delete(self, id: str) -> None:
        reply = self._client.call("DELETE", f"{FILES}/{id}")
        if reply.status != 200:
            self.checks.problems.append(f"deletion of {id}: {reply}")


def _tidiers(sidecars: Sidecars, ledgers: Sequence[Ledger], seed: int) -> list[Tidier]:
    rng = random.Random(seed)
    clients = [FileClient(sidecars.ports, ledger.key, rng) for ledger in ledgers]
    return [
        Tidier(ledger, client, stranger)
        for ledger, client, stranger in zip(ledgers, clients, reversed(clients), strict=True)
    ]


def _sample(
    soak: Soak, sidecars: Sidecars, store: Database, folder: Path, tidiers: Sequence[Tidier], seconds: float
) -> None:
    [port] = sidecars.ports
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline or len(soak.memory) < MIN_SAMPLES:
        threading.Event().wait(SAMPLE_SECONDS)
        soak.memory.append(census(sidecars.pid(port)).resident_bytes / MIB)
        soak.database.append(store.n_bytes() / MIB)
        soak.blobs.append(_size(folder) / MIB)
        for tidier in tidiers:
            tidier.tidy()


def _size(folder: Path) -> int:
    size = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            size += file.stat().st_size if file.is_file() else 0
    return size


def problems_of_growth(soak: Soak, limit_mib: float = GROWTH_MIB) -> list[str]:
    return [
        *problems_of_memory(soak.memory, limit_mib),
        *problems_of_size("database", soak.database),
        *problems_of_size("folder of the blobs", soak.blobs),
    ]


@click.command()
@click.option("--minutes", default=20.0, show_default=True)
@click.option("--database", "kind", type=click.Choice(KINDS), default=KINDS[0], show_default=True)
@click.option("--seed", type=int, help="Default: a random number, which is printed.")
def main(minutes: float, kind: str, seed: int | None) -> None:
    """Exit status 1 if memory, database or blobs grow, or if an answer is wrong."""
    seed = random.randrange(10**6) if seed is None else seed
    click.echo(f"seed {seed}, {kind}, {minutes:g} minutes")
    with database(kind) as store:
        soak = run(store, seed, minutes * 60)
    tenth = max(1, len(soak.memory) // 10)
    for name, values in (("memory", soak.memory), ("database", soak.database), ("blobs", soak.blobs)):
        click.echo(f"MiB of {name}: {', '.join(f'{value:.1f}' for value in values[::tenth])}")
    click.echo(f"growth of memory in the second half: {growth(second_half(soak.memory)):.2f} MiB")
    click.echo(f"counts: {dict(soak.counts)}")
    problems = [*soak.problems, *problems_of_growth(soak)]
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
