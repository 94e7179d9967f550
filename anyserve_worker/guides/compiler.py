"""Compiles the guides of all requests: quick ones first, slow ones in turn, equal ones once.

The time to compile a guide is unknown beforehand, so each gets little processor time at first. A guide that needs more
starts again with more time in the lane of slow guides. So a quick guide never waits for a slow one.

Runs on the event loop; each lane compiles on a thread of its own.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple, Protocol, TypeVar

from anyserve_worker.core.errors import Draining, InvalidRequest, QueueFull, TrialLost, TrialOverrun, WorkerError
from anyserve_worker.core.guide import Guide, GuideMatcher
from anyserve_worker.guides.errors import parts
from anyserve_worker.guides.memory import LeastRecentlyUsed, digest
from anyserve_worker.guides.queue import GuideQueue
from anyserve_worker.guides.trial import TOO_COMPLEX

LEVEL_SECONDS = (0.01, 0.07, 0.5)
"""Seconds of processor time on each level. Ordinary guides take 1 to 5 ms; the last level is the limit."""
PART_SEARCH_SECONDS = (0.02, 0.1, 1.0)
"""Seconds on each level to search for the wrong part of a refused guide, if the refusal names none."""
MAX_WAIT = 10.0
"""Maximum seconds that a guide waits for its turn."""
MAX_SLOW = 64
"""Maximum guides of all callers that wait on the last level."""
MAX_SLOW_PER_CALLER = 16
"""Maximum guides of one caller that wait on the last level."""
MAX_REFUSALS = 4096
"""Refusals to remember, of at most MAX_MESSAGE characters each."""
MAX_ACCEPTED = 1024
"""Guides to remember that need no further trial."""
MAX_ACCEPTED_CHARACTERS = 1 << 24
"""Characters of all remembered guides together, in llguidance's own form."""

E = TypeVar("E", bound=WorkerError)


class GuideVocabulary(Protocol):
    """Compiles single guides for a model's tokens. Safe from any thread."""

    def check_guide(self, guide: Guide) -> None:
        """Raises InvalidRequest for a guide that can be refused without compiling it. Takes no time."""

    def try_guide(self, guide: Guide, seconds: float) -> str:
        """Returns the guide in llguidance's own form, after a trial within `seconds` of processor time.

        Raises InvalidRequest, TrialOverrun, TrialLost or Draining.
        """

    def compile(self, guide: Guide, translated: str) -> GuideMatcher:
        """Compiles the result of `try_guide`, in about the same time. Raises InvalidRequest."""

    def stop_compiling(self) -> None:
        """Makes each running `try_guide` raise Draining at once."""


class GuideStats(Protocol):
    """Counters, changed on the event loop. Implemented by `engine.stats.EngineStats`."""

    requests_refused: int
    guide_trials: int


class Accepted(NamedTuple):
    """A guide that passed its trial.

    Matchers are not kept, because their copies share a lexer, which grows with each text.
    """

    translated: str
    level: int


@dataclass(eq=False)
class GuideJob:
    """A guide to compile once for all requests that wait for it."""

    key: bytes
    guide: Guide
    level: int = 0
    translated: str | None = None
    """The guide in llguidance's own form; None until it has passed its trial."""
    running: bool = False
    waiters: dict[asyncio.Future[GuideMatcher], str] = field(default_factory=dict)
    """The caller of each waiting request, by its future."""


class Lane:
    """Compiles one guide at a time."""

    def __init__(self, name: str, queue: GuideQueue[GuideJob]) -> None:
        self.queue = queue
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self.busy = False


class GuideCompiler:
    def __init__(
        self, vocabulary: GuideVocabulary, stats: GuideStats, max_requests: int, max_wait: float = MAX_WAIT
    ) -> None:
        """`max_requests`: maximum requests in the engine, which also limits the waiting quick guides."""
        self._vocabulary = vocabulary
        self._stats = stats
        self._max_wait = max_wait
        self._quick = Lane("guides", GuideQueue(1, max_requests, max_requests))
        self._slow = Lane("slow-guides", GuideQueue(len(LEVEL_SECONDS), MAX_SLOW, MAX_SLOW_PER_CALLER))
        self._copier = ThreadPoolExecutor(1, thread_name_prefix="guide-copies")
        self._jobs: dict[bytes, GuideJob] = {}
        self._refusals: LeastRecentlyUsed[InvalidRequest] = LeastRecentlyUsed(MAX_REFUSALS, MAX_REFUSALS)
        self._accepted: LeastRecentlyUsed[Accepted] = LeastRecentlyUsed(MAX_ACCEPTED, MAX_ACCEPTED_CHARACTERS)
        self._closing = False

    @property
    def n_waiting(self) -> int:
        return len(self._quick.queue) + len(self._slow.queue)

    async def compile(self, guide: Guide, caller: str, n: int) -> list[GuideMatcher]:
        """Returns a matcher for each of `n` choices. Raises InvalidRequest, QueueFull or Draining."""
        self._refuse_if_closing()
        self._vocabulary.check_guide(guide)
        key = digest(guide)
        if refusal := self._refusals.get(key):
            raise _copy_of(refusal)
        compiled = await self._result(key, guide, caller)
        if n == 1:
            return [compiled.copy()]
        # A copy may take a millisecond.
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._copier, lambda: [compiled.copy() for _ in range(n)])

    async def close(self) -> None:
        """Fails all waiting and running jobs. The vocabulary may be freed afterwards."""
        self._closing = True
        for job in list(self._jobs.values()):
            self._fail(job, Draining("the worker is shutting down"))
        for lane in (self._quick, self._slow):
            lane.queue.clear()
        await asyncio.to_thread(self._vocabulary.stop_compiling)
        for thread in (self._quick.thread, self._slow.thread, self._copier):
            await asyncio.to_thread(thread.shutdown)

    # ---- Requests that wait

    async def _result(self, key: bytes, guide: Guide, caller: str) -> GuideMatcher:
        job = self._jobs.get(key)
        if job is None:
            accepted = self._accepted.get(key)
            job = self._jobs[key] = (
                GuideJob(key, guide, accepted.level, accepted.translated) if accepted else GuideJob(key, guide)
            )
        result: asyncio.Future[GuideMatcher] = asyncio.get_running_loop().create_future()
        is_new = caller not in job.waiters.values()
        job.waiters[result] = caller
        try:
            if is_new and not job.running and not self._enqueue(job, caller):
                raise self._full()
            self._dispatch()
            while not result.done():
                await asyncio.wait((result,), timeout=self._max_wait)
                if not result.done() and not job.running:
                    raise self._full()
            return result.result()
        finally:
            self._leave(job, result)

    def _leave(self, job: GuideJob, result: asyncio.Future[GuideMatcher]) -> None:
        """Removes a request that has its result or was cancelled."""
        caller = job.waiters.pop(result, None)
        if caller is None or caller in job.waiters.values():
            return
        for lane in (self._quick, self._slow):
            lane.queue.discard(job, caller)
        if not job.waiters and not job.running:
            self._jobs.pop(job.key, None)

    def _enqueue(self, job: GuideJob, caller: str) -> bool:
        lane = self._slow if job.level else self._quick
        return lane.queue.add(job, caller, job.level)

    def _full(self) -> QueueFull:
        self._stats.requests_refused += 1
        return QueueFull(
            f"{self.n_waiting} guides (json_schema, regex, grammar) are already waiting to be compiled; try again later"
        )

    def _refuse_if_closing(self) -> None:
        if self._closing:
            raise Draining("the worker is shutting down")

    # ---- Jobs

    def _dispatch(self) -> None:
        """Starts the next job of each free lane."""
        for lane in (self._quick, self._slow):
            if not lane.busy and (job := lane.queue.take()):
                lane.busy = job.running = True
                self._stats.guide_trials += job.translated is None
                work = asyncio.get_running_loop().run_in_executor(lane.thread, self._compile, job)
                work.add_done_callback(partial(self._ended, lane, job))

    def _compile(self, job: GuideJob) -> tuple[str, GuideMatcher]:
        """Returns the guide in llguidance's own form, and its matcher. Runs on a lane's thread."""
        translated = self._try(job) if job.translated is None else job.translated
        return translated, self._vocabulary.compile(job.guide, translated)

    def _try(self, job: GuideJob) -> str:
        for _ in range(2):
            try:
                return self._vocabulary.try_guide(job.guide, LEVEL_SECONDS[job.level])
            except TrialLost:
                self._refuse_if_closing()
            except TrialOverrun:
                if job.level + 1 < len(LEVEL_SECONDS):
                    raise
                raise self._with_part(job, _too_complex(job.guide)) from None
            except InvalidRequest as refusal:
                raise self._with_part(job, refusal) from None
        raise QueueFull("the guide could not be compiled because its trial process was killed; try again later")

    def _with_part(self, job: GuideJob, refusal: InvalidRequest) -> InvalidRequest:
        """Returns the refusal of the first part that is refused on its own, or else `refusal`."""
        if refusal.part:
            return refusal
        tensor, seconds = job.guide.tensor, min(LEVEL_SECONDS[job.level], LEVEL_SECONDS[1])
        end = time.monotonic() + PART_SEARCH_SECONDS[job.level]
        for part, source in parts(tensor.name, job.guide.source):
            if time.monotonic() > end:
                break
            part_refusal: InvalidRequest | None = None
            try:
                self._vocabulary.try_guide(Guide(tensor, source), seconds)
            except TrialOverrun:
                if TOO_COMPLEX not in str(refusal):
                    break
                part_refusal = refusal
            except InvalidRequest as error:
                part_refusal = error
            except (TrialLost, Draining):
                break
            if part_refusal is not None:
                return InvalidRequest(str(part_refusal), tensor=tensor.name, part=part)
        return refusal

    def _ended(self, lane: Lane, job: GuideJob, work: "asyncio.Future[tuple[str, GuideMatcher]]") -> None:
        lane.busy = job.running = False
        try:
            translated, compiled = work.result()
        except TrialOverrun:
            self._overran(job)
        except InvalidRequest as refusal:
            self._remember(job, refusal)
        except Exception as error:
            self._fail(job, error)
        else:
            self._jobs.pop(job.key, None)
            if job.translated is None:
                self._accepted.put(job.key, Accepted(translated, job.level), len(translated))
            for result in job.waiters:
                if not result.done():
                    result.set_result(compiled)
        if not self._closing:
            self._dispatch()

    def _overran(self, job: GuideJob) -> None:
        """Starts the job again with more time, for the callers that find room in the queue of slow guides.

        (On the last level, a guide that takes too long is refused.)
        """
        job.level += 1
        refused: list[asyncio.Future[GuideMatcher]] = []
        for caller in dict.fromkeys(job.waiters.values()):
            if not self._enqueue(job, caller):
                refused += [result for result, waiter in job.waiters.items() if waiter == caller]
        for result in refused:
            _set_exception(result, self._full())
            del job.waiters[result]
        if not job.waiters:
            self._jobs.pop(job.key, None)

    def _remember(self, job: GuideJob, refusal: InvalidRequest) -> None:
        self._refusals.put(job.key, _copy_of(refusal), 1)
        self._fail(job, refusal)

    def _fail(self, job: GuideJob, error: Exception) -> None:
        """Ends the job and fails all requests that wait for it."""
        self._jobs.pop(job.key, None)
        for result in job.waiters:
            _set_exception(result, error)


def _set_exception(result: asyncio.Future[GuideMatcher], error: Exception) -> None:
    """Sets a copy of the error, because raising an exception adds to its traceback."""
    if not result.done():
        result.set_exception(_copy_of(error) if isinstance(error, WorkerError) else error)
        result.exception()  # A cancelled request never retrieves it.


def _copy_of(error: E) -> E:
    return type(error)(str(error), tensor=error.tensor, part=error.part)


def _too_complex(guide: Guide) -> InvalidRequest:
    return InvalidRequest(f"tensor '{guide.tensor.name}': {TOO_COMPLEX}", tensor=guide.tensor.name)
