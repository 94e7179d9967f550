"""Runs what this process takes from the store: background responses, or lines of batches."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from typing import Any, Generic, Protocol, TypeVar

from openai_server.core.store_errors import StoreAway, Superseded
from openai_server.jobs.lease import Lease
from openai_server.store.records import LEASE_SECONDS, Recovered

log = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
"""Time between two heartbeats while there are runs. A heartbeat also finds runs that another process has cancelled."""
CLAIM_SECONDS = 1.0
"""Time between two searches for queued runs, unless `wake` is called."""
RECOVER_SECONDS = 2.0
"""Time between two searches for the runs of processes that ended."""
CLOSE_SECONDS = 0.1
"""Time between two looks at how many seconds are left for runs when the process ends."""
RETRY_SECONDS = 0.5
"""Time until a transaction is tried again that the store didn't answer."""


class Run(Protocol):
    """A unit of work for a runner."""

    @property
    def id(self) -> str: ...
    @property
    def owner(self) -> str: ...


R = TypeVar("R", bound=Run)


class RunStore(Protocol[R]):
    """The part of the store that a runner uses."""

    async def claim(self, n: int, resting: Collection[str]) -> Sequence[R]:
        """Takes runs. It is a heartbeat too, unless it takes none."""

    async def beat(self, ids: Sequence[str]) -> Sequence[str]: ...
    async def end_runner(self) -> Recovered: ...
    async def recover(self, running: Collection[str]) -> Recovered: ...
    async def requeue(self, run: R) -> None: ...
    async def abandon(self, run: R) -> None: ...


class Meter(Protocol):
    """Counts runs."""

    def running(self, n: int) -> None:
        """1 when a run begins in this process, -1 when it ends."""

    def recovered(self, *, requeued: int, failed: int) -> None:
        """Numbers of runs whose process ended."""


class NotNow(Exception):
    """The run can't begin at the moment, and nothing has been stored for it. `seconds`: time until another attempt may
    succeed. `is_owners`: whether a limit of its owner is the reason, so that others' runs may begin."""

    def __init__(self, seconds: float, *, is_owners: bool = False) -> None:
        super().__init__(seconds)
        self.seconds = seconds
        self.is_owners = is_owners


Work = Callable[[R], Awaitable[None]]
"""Does one run to its end. It stops without storing anything more when it is cancelled, or when the store raises
Superseded. Raises NotNow."""


class Runner(Generic[R]):
    """Runs up to `limit` runs at a time. `name` is what they are, in log lines. `clock` gives seconds from any start.
    `changed` is called with the ids of runs that were queued again or failed, because the process that had them ended.

    The runners of a process share its heartbeat, and each has a lease of its own on it."""

    def __init__(
        self,
        store: RunStore[R],
        work: Work[R],
        *,
        limit: int,
        name: str,
        clock: Callable[[], float] = time.monotonic,
        changed: Callable[[Sequence[str]], None] = lambda _: None,
        meter: Meter | None = None,
    ) -> None:
        self._store = store
        self._work = work
        self._limit = limit
        self._name = name
        self._clock = clock
        self._changed = changed
        self._meter = meter
        self._tasks: dict[str, asyncio.Task[None]] = {}
        """The runs of this process, by id."""
        self._lease = Lease(LEASE_SECONDS, clock())
        self._is_lost = False
        """Whether the lease may have expired: other processes may have taken the runs."""
        self._rests_until = float("-inf")
        """Time until which nothing is claimed."""
        self._n_next = limit
        """Maximum number of runs to claim at once. After a run that could not begin, it grows from 1: while the backend
        is away, only one run at a time is taken and given back."""
        self._owners_rest_until: dict[str, float] = {}
        """Time until which nothing of these owners is claimed."""
        self._is_draining = False
        self._claiming = asyncio.Lock()
        self._wake = asyncio.Event()
        self._has_begun = asyncio.Event()
        """Set when a run has begun."""
        self._ended = asyncio.Event()
        """Set when a run has ended."""

    async def run(self) -> None:
        """Runs until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            tasks.create_task(self._claim())
            tasks.create_task(self._recover())

    def wake(self) -> None:
        """Looks for queued runs now: one has been queued."""
        self._wake.set()

    @property
    def n_running(self) -> int:
        """The number of runs in this process."""
        return len(self._tasks)

    def has(self, id: str) -> bool:
        """Whether this process runs it."""
        return id in self._tasks

    def stop(self, id: str) -> None:
        """Stops a run that was cancelled, if this process has it."""
        if (task := self._tasks.get(id)) is not None:
            task.cancel()

    def stop_where(self, is_stopped: Callable[[str], bool]) -> None:
        """Stops the runs of this process whose ids satisfy `is_stopped`."""
        for id, task in self._tasks.items():
            if is_stopped(id):
                task.cancel()

    def drain(self) -> None:
        """Takes no further runs."""
        self._is_draining = True

    async def close(self, seconds_left: Callable[[], float]) -> None:
        """Waits for the runs while there are seconds left, and gives the others back. `run` must not be cancelled
        before that."""
        self._is_draining = True
        while self._tasks and (left := seconds_left()) > 0:
            self._ended.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, CLOSE_SECONDS)):
                    await self._ended.wait()
        async with self._claiming:
            await self._abort_all()
        with suppress(StoreAway):  # then another process takes them when the lease has expired
            await self._store.end_runner()

    # ---- Loops

    async def _beat(self) -> None:
        while True:
            if not self._tasks and not self._is_lost:
                self._has_begun.clear()
                await self._has_begun.wait()
            await self._unless_away(self._beat_once())
            await asyncio.sleep(BEAT_SECONDS)

    async def _beat_once(self) -> None:
        """Raises StoreAway."""
        sent_at = self._clock()
        try:
            if self._is_lost:
                # What this process had is queued again or failed, unless another process has done that.
                self._announce(await self._store.end_runner())
                self._is_lost = False
            async with asyncio.timeout(max(RETRY_SECONDS, self._lease.left(sent_at))):
                superseded = await self._store.beat(list(self._tasks))
        except (StoreAway, TimeoutError) as error:
            if self._lease.left(self._clock()) <= 0:
                if self._tasks:
                    log.warning("the store is away: %d %s are stopped", len(self._tasks), self._name)
                self._is_lost = True
                await self._abort_all()
            raise StoreAway from error
        self._lease.renew(sent_at)
        for id in superseded:
            self.stop(id)

    async def _claim(self) -> None:
        while True:
            self._wake.clear()
            await self._unless_away(self._claim_once())
            with suppress(TimeoutError):
                async with asyncio.timeout(CLAIM_SECONDS):
                    await self._wake.wait()
            if (rest := self._rests_until - self._clock()) > 0:
                await asyncio.sleep(rest)

    async def _claim_once(self) -> None:
        """Raises StoreAway."""
        async with self._claiming:
            # Two processes that claim at the same time get fewer than they could, so each one tries again.
            while await self._claim_some() and self._n_next >= self._limit:
                pass

    async def _claim_some(self) -> bool:
        """Whether there may be more to claim. Raises StoreAway."""
        n_free = min(self._limit - len(self._tasks), self._n_next)
        if n_free <= 0 or not self._may_claim or self._clock() < self._rests_until:
            return False
        sent_at = self._clock()
        if claimed := await self._store.claim(n_free, self._resting()):
            self._lease.renew(sent_at)
            self._n_next = min(2 * self._n_next, self._limit)
        for run in claimed:
            if (former := self._tasks.get(run.id)) is not None:  # taken from it, which it hasn't noticed yet
                former.cancel()
                await asyncio.wait([former])
            if self._may_claim:
                task = self._tasks[run.id] = asyncio.create_task(self._do(run), name=run.id)
                task.add_done_callback(self._forget)
                self._has_begun.set()
                self._count(1)
            else:
                await self._store.requeue(run)
        return bool(claimed)

    def _resting(self) -> Collection[str]:
        now = self._clock()
        self._owners_rest_until = {owner: until for owner, until in self._owners_rest_until.items() if until > now}
        return self._owners_rest_until.keys()

    @property
    def _may_claim(self) -> bool:
        return not (self._is_draining or self._is_lost)

    async def _recover(self) -> None:
        while True:
            await self._unless_away(self._recover_once())
            await asyncio.sleep(RECOVER_SECONDS)

    async def _recover_once(self) -> None:
        """Raises StoreAway."""
        async with self._claiming:
            recovered = await self._store.recover(list(self._tasks))
        self._announce(recovered)

    def _announce(self, recovered: Recovered) -> None:
        for ids, outcome in ((recovered.requeued, "queued again"), (recovered.failed, "failed")):
            if ids:
                log.warning("%d %s of a process that ended: %s", len(ids), self._name, outcome)
        if self._meter is not None:
            self._meter.recovered(requeued=len(recovered.requeued), failed=len(recovered.failed))
        if recovered.requeued:
            self.wake()
        if changed := [*recovered.requeued, *recovered.failed]:
            self._changed(changed)

    async def _unless_away(self, step: Coroutine[Any, Any, None]) -> None:
        """Does one step of a loop. Any failure is logged: the next step may succeed."""
        try:
            await step
        except StoreAway:
            log.debug("the store is away")
        except Exception:
            log.exception("%s: a step failed", self._name)

    # ---- One run

    async def _do(self, run: R) -> None:
        try:
            await self._work(run)
        except Superseded:
            log.debug("%s was taken from this process", run.id)
        except NotNow as error:
            until = self._clock() + error.seconds
            if error.is_owners:
                self._owners_rest_until[run.owner] = until
            else:
                self._rests_until, self._n_next = max(self._rests_until, until), 1
            await self._settled(self._store.requeue, run)
        except Exception:
            log.exception("%s failed", run.id)
            await self._settled(self._store.abandon, run)

    async def _settled(self, give_back: Callable[[R], Awaitable[None]], run: R) -> None:
        while True:
            try:
                await give_back(run)
            except StoreAway:
                await asyncio.sleep(RETRY_SECONDS)
                continue
            except Superseded:
                pass
            return

    def _count(self, n: int) -> None:
        if self._meter is not None:
            self._meter.running(n)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._tasks.pop(task.get_name(), None)
        self._count(-1)
        self._ended.set()
        self.wake()

    async def _abort_all(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
