"""Loads on a pair of few places, one after the other, and what becomes of them, of its memory and of its probes."""

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
from tests.ops.arrivals import Ask, Asker, Outcome, closed_loop, open_loop, tokens_within
from tests.ops.census import census
from tests.ops.client import get
from tests.ops.traffic import KEYS

Asking = Coroutine[Any, Any, list[Outcome]]
RAMP = 0.2
"""Share of a load's time at the beginning, in which places and queue fill, that its tokens per second leave out."""


@dataclass(frozen=True)
class Pair:
    url: str
    pids: dict[str, int]
    places: int
    queue: int

    def resident(self) -> dict[str, int]:
        """MiB."""
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
    """Probes the sidecar and looks at the memory of both while a load goes on."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = pair.resident()
        self.slowest_probe = 0.0
        self.lost_probes = 0

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.25):
            self.peak = {name: max(self.peak[name], now) for name, now in self._pair.resident().items()}
            end = get(self._pair.url, "/livez")
            self.lost_probes += end.status != 200
            self.slowest_probe = max(self.slowest_probe, end.seconds)


@dataclass
class Load:
    """What became of one."""

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
    """Answers have about `tokens` tokens; each load takes `seconds`, and as long as its last answers take."""

    def __init__(self, pair: Pair, tokens: int, seconds: float) -> None:
        self._pair = pair
        self._tokens = tokens
        self._seconds = seconds
        self._seeds = count(1)

    def all_places(self) -> Load:
        """As many clients as places, each of which asks again as soon as it is answered."""
        ask = self._asker(KEYS[0])
        (load,) = self._run({"all places taken": closed_loop(ask, self._pair.places, self._seconds)})
        return load

    def times(self, factor: float, rate: float) -> Load:
        (load,) = self._run({f"{factor:g} times": self._open(KEYS[0], factor * rate)})
        return load

    def two_keys(self, rates: tuple[float, float]) -> tuple[Load, Load]:
        """At the same time."""
        return self._beside(*(self._open(key, rate) for key, rate in zip(KEYS, rates, strict=True)))

    def one_client_beside(self, rate: float) -> tuple[Load, Load]:
        """Of another key; it asks again as soon as it is answered, so it never has more than one request in there."""
        return self._beside(self._open(KEYS[0], rate), closed_loop(self._asker(KEYS[1]), 1, self._seconds))

    def _beside(self, one: Asking, other: Asking) -> tuple[Load, Load]:
        first, second = self._run({"key A": one, "key B": other})
        return first, second

    def _asker(self, key: str) -> Ask:
        return Asker(self._pair.url, key, self._tokens, next(self._seeds))

    def _open(self, key: str, rate: float) -> Asking:
        return open_loop(self._asker(key), rate, self._seconds, next(self._seeds))

    def _run(self, named: dict[str, Asking]) -> list[Load]:
        async def together() -> list[list[Outcome]]:
            return await asyncio.gather(*named.values())

        began = time.monotonic()
        with Watch(self._pair) as watch:
            outcomes = asyncio.run(together())
        return [Load(name, began, self._seconds, each, watch) for name, each in zip(named, outcomes, strict=True)]
