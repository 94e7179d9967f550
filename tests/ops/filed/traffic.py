"""Clients that use files, uploads and batches in every way, each in a thread."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from tests.ops.filed.batches import list_batches, run_batch, try_another_key
from tests.ops.filed.files import create_file, delete_file, list_files, read_file, upload_in_parts
from tests.ops.filed.ledger import Ledger
from tests.ops.filed.visitor import FileVisitor, Moments
from tests.ops.stored.visiting import visiting

CLIENTS_PER_KEY = 4
SLOWNESS_SECONDS = 0.02
Kind = Callable[[FileVisitor], None]
KINDS: Mapping[Kind, int] = {
    create_file: 20,
    upload_in_parts: 20,
    read_file: 20,
    list_files: 4,
    delete_file: 10,
    run_batch: 20,
    list_batches: 2,
    try_another_key: 8,
}
"""Relative frequency of each kind of request."""


@contextmanager
def visited(
    ports: Sequence[int],
    ledgers: Sequence[Ledger],
    seed: int,
    moments: Moments,
    *,
    interval: float = 0,
    slowness: float = SLOWNESS_SECONDS,
    kinds: Mapping[Kind, int] = KINDS,
) -> Iterator[Sequence[FileVisitor]]:
    """Yields clients of two keys, which send requests until the block ends. `interval`: least seconds between two
    requests of one client."""
    visitors = [
        FileVisitor(
            f"client {number} of {ledger.key}",
            f"{seed} {ledger.key} {number}",
            ports,
            ledger,
            stranger,
            moments,
            slowness=slowness,
        )
        for ledger, stranger in (ledgers, reversed(ledgers))
        for number in range(CLIENTS_PER_KEY)
    ]
    with visiting(visitors, kinds, interval=interval):
        yield visitors
