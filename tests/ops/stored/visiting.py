"""Clients that request at random, each in a thread, and record what happens."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from tests.ops.stored.client import Cut, StoreClient


class RandomClient:
    """`problems` has what is wrong, `counts` the requests by kind and some outcomes, `cuts` the reasons for which
    requests were cut off."""

    client: StoreClient

    def __init__(self, name: str, seed: str) -> None:
        self.name = name
        self.rng = random.Random(seed)
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        self.cuts: list[str] = []

    def expect(self, condition: bool, problem: str) -> bool:
        if not condition:
            self.problems.append(f"{self.name}: {problem}")
        return condition


C = TypeVar("C", bound=RandomClient)


@contextmanager
def visiting(visitors: Sequence[C], kinds: Mapping[Callable[[C], None], int], *, interval: float) -> Iterator[None]:
    """The clients send requests until the block ends. `kinds`: relative frequency of each kind of request. `interval`:
    least seconds between two requests of one client."""
    stop = threading.Event()
    threads = [
        threading.Thread(target=_run, args=(visitor, stop, interval, kinds), daemon=True) for visitor in visitors
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _run(visitor: C, stop: threading.Event, interval: float, kinds: Mapping[Callable[[C], None], int]) -> None:
    """Sends requests at random, one after another, until `stop` is set."""
    try:
        next_request = time.monotonic()
        while not stop.wait(max(0.0, next_request - time.monotonic())):
            next_request = time.monotonic() + interval
            [kind] = visitor.rng.choices(list(kinds), list(kinds.values()))
            visitor.counts[kind.__name__] += 1
            try:
                kind(visitor)
            except Cut as error:
                visitor.cuts.append(str(error))
    except Exception as error:
        visitor.problems.append(f"{visitor.name}: {error!r}")
        raise
    finally:
        visitor.client.close()
