"""Runs loads on a pair with few slots, one after another, and collects outcomes, memory and probes."""

import asyncio
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from typing import Any

from benchmarks.stats import percentile
from tests.e2e import servers
from tests.models import smollm2_path
from tests.ops.arrivals import Outcome, Send, StreamClient, closed_loop, open_loop, tokens_within
from tests.ops.census import census
from tests.ops.client import get
from tests.ops.traffic import KEYS

PendingLoad = Coroutine[Any, Any, list[Outcome]]
RAMP = 0.2
"""Share of a load's time at its beginning, while slots and queue fill, that is left out of its tokens per second."""


@dataclass(frozen=True)
class Pair:
    url: str
    pids: dict[str, int]
    places: int
    queue: int

    def resident(self) -> dict[str, int]:
        """Returns the anonymous memory of each process, in MiB."""
        return {name: census(pid).resident for name, pid in self.pids.items()}


@contextmanager
def pair(places: int, queue: int) -> Iterator[Pair]:
    keys = [word for key in KEYS for word in ("--api-key", key)]
    limits = ("--max-concurrency", str(places), "--max-queue", str(queue))
    with (
        servers.worker("--model", f"smollm2={smollm2_path()}", "--parallel", str(places)) as (worker, address),
        servers.sidecar(address, *keys, *limits) as (sidecar, url),
    ):
        servers.eventually(lambda: get(url, "/readyz").status == 200)
        yield Pair(url, {"worker": worker.popen.pid, "sidecar": sidecar.popen.pid}, places, queue)


class Watch:
    """Probes the sidecar and measures the memory of both processes during a load."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = pair.resident()
        self.slowest_probe = 0.0
        self.lost_probes = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.25):
            self.peak = {name: max(self.peak[name], current) for name, current in self._pair.resident().items()}
            result = get(self._pair.url, "/livez")
            self.lost_probes += result.status != 200
            self.slowest_probe = max(self.slowest_probe, result.seconds)


@dataclass
class Load:
    """The outcomes of one load."""

    name: str
    began: float
    seconds: float
    outcomes: list[Outcome]
    watch: Watch

    @property
    def accepted(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.accepted]

    @property
    def refused(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.refused]

    @property
    def tokens_per_s(self) -> float:
        ramp = self.seconds * RAMP
        return tokens_within(self.outcomes, self.began + ramp, self.began + self.seconds) / (self.seconds - ramp)

    def per_token(self, percent: float) -> float:
        return percentile([outcome.per_token for outcome in self.accepted], percent)

    def wait(self, percent: float) -> float:
        return percentile([outcome.wait for outcome in self.accepted], percent)

    def refusal(self, percent: float) -> float:
        return percentile([outcome.seconds for outcome in self.refused], percent)


class Trial:
    """Responses have about `tokens` tokens; each load sends for `seconds`, and ends when its last response does."""

    def __init__(self, pair: Pair, tokens: int, seconds: float) -> None:
        self._pair = pair
        self._tokens = tokens
        self._seconds = seconds
        self._seeds = count(1)

    def all_slots(self) -> Load:
        """Runs as many clients as there are slots; each sends its next request as soon as the last one is answered."""
        client = self._client(KEYS[0])
        (load,) = self._run({"all slots taken": closed_loop(client, self._pair.places, self._seconds)})
        return load

    def times(self, factor: float, rate: float) -> Load:
        (load,) = self._run({f"{factor:g} times": self._open(KEYS[0], factor * rate)})
        return load

    def two_keys(self, rates: tuple[float, float]) -> tuple[Load, Load]:
        """Runs two loads with different keys at the same time."""
        return self._beside(*(self._open(key, rate) for key, rate in zip(KEYS, rates, strict=True)))

    def one_client_beside(self, rate: float) -> tuple[Load, Load]:
        """Runs an open loop beside one client with the other key that never has more than one request."""
        return self._beside(self._open(KEYS[0], rate), closed_loop(self._client(KEYS[1]), 1, self._seconds))

    def _beside(self, first_load: PendingLoad, second_load: PendingLoad) -> tuple[Load, Load]:
        first, second = self._run({"key A": first_load, "key B": second_load})
        return first, second

    def _client(self, key: str) -> Send:
        return StreamClient(self._pair.url, key, self._tokens, next(self._seeds))

    def _open(self, key: str, rate: float) -> PendingLoad:
        return open_loop(self._client(key), rate, self._seconds, next(self._seeds))

    def _run(self, named: dict[str, PendingLoad]) -> list[Load]:
        async def together() -> list[list[Outcome]]:
            return await asyncio.gather(*named.values())

        began = time.monotonic()
        with Watch(self._pair) as watch:
            outcomes = asyncio.run(together())
        return [
            Load(name, began, self._seconds, load_outcomes, watch)
            for name, load_outcomes in zip(named, outcomes, strict=True)
        ]
