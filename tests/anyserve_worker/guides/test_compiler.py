"""Guides of many requests: the order of their trials, the memory of verdicts, full queues. The vocabulary is a fake."""

import asyncio
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from anyserve_worker.core.errors import Draining, InvalidRequest, QueueFull, TrialLost, TrialOverrun
from anyserve_worker.core.guide import Guide
from anyserve_worker.engine.stats import EngineStats
from anyserve_worker.guides.compiler import LEVEL_SECONDS as SECONDS
from anyserve_worker.guides.compiler import MAX_SLOW, MAX_SLOW_PER_CALLER, MAX_WAIT, GuideCompiler
from protos import contract
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, ByteVocabulary, FakeGuide

QUICK, MIDDLE, SLOW, BAD, LOST, GATED, BROKEN, TOO_LONG = (
    *("quick", "middle", "slow", "bad", "lost", "gated", "broken", "too long"),
)


class Vocabulary(ByteVocabulary):
    """Treats a guide by its first word: a `slow` one is rejected on the last level, a `middle` one passes it.

    A `gated` guide waits for `may_go_on`; so do `slow` and `middle` ones on the last level.
    """

    def __init__(self) -> None:
        self.tried: list[tuple[str, float]] = []
        self.compiled = Counter[str]()
        self.lost = Counter[str]()
        self.n_losses = 1
        """Number of trials of a `lost` guide that are lost before one succeeds."""
        self.may_go_on = threading.Event()
        self.stopped = False
        self.last_level = SECONDS[-1]
        """Processor seconds of the level on which slow guides are decided."""

    def check_guide(self, guide: Guide) -> None:
        if guide.source.startswith(TOO_LONG):
            raise InvalidRequest("too long", tensor=guide.tensor.name)

    def try_guide(self, guide: Guide, seconds: float) -> str:
        kind = guide.source.partition(" ")[0]
        self.tried.append((guide.source, seconds))
        if kind in (SLOW, MIDDLE) and seconds < self.last_level:
            raise TrialOverrun
        if kind in (SLOW, MIDDLE, GATED):
            assert self.may_go_on.wait(WAIT_TIMEOUT)
        if self.stopped:
            raise Draining("the worker is shutting down")
        if kind == SLOW:
            raise TrialOverrun
        if kind == BAD:
            raise InvalidRequest("no such guide", tensor=guide.tensor.name)
        if kind == BROKEN:
            raise RuntimeError("a bug")
        if kind == LOST and self.lost[guide.source] < self.n_losses:
            self.lost[guide.source] += 1
            raise TrialLost
        return guide.source

    def compile(self, guide: Guide, translated: str) -> FakeGuide:
        assert translated == guide.source
        self.compiled[translated] += 1
        return super().compile(guide, translated)

    def stop_compiling(self) -> None:
        self.stopped = True
        self.may_go_on.set()

    def n_tried(self, seconds: float) -> int:
        return sum(tried == seconds for _, tried in self.tried)

    def seconds(self, source: str) -> list[float]:
        return [seconds for tried, seconds in self.tried if tried == source]


class Compiler(GuideCompiler):
    """A compiler with its vocabulary and the sources of the requests that have ended, in order."""

    def __init__(self, max_wait: float) -> None:
        self.vocabulary = Vocabulary()
        self.stats = EngineStats()
        super().__init__(self.vocabulary, self.stats, 300, max_wait)
        self.order: list[str] = []

    def start(self, source: str, caller: str = "", n: int = 1) -> "asyncio.Task[str]":
        """Starts a request. Its result is "compiled" or the name of the error."""

        async def request() -> str:
            try:
                async with asyncio.timeout(WAIT_TIMEOUT):
                    guides = await self.compile(Guide(contract.REGEX, source), caller, n)
            except (InvalidRequest, QueueFull, Draining, RuntimeError) as error:
                self.order.append(source)
                return type(error).__name__
            assert len({id(guide) for guide in guides}) == n
            self.order.append(source)
            return "compiled"

        return asyncio.create_task(request())

    async def run(self, source: str, caller: str = "", n: int = 1) -> str:
        return await self.start(source, caller, n)

    async def settle(self, n_waiting: int) -> None:
        """Waits until `n_waiting` guides wait and the last level works on one."""
        await eventually(
            lambda: self.n_waiting == n_waiting and any(seconds == SECONDS[-1] for _, seconds in self.vocabulary.tried)
        )


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@asynccontextmanager
async def compiler(max_wait: float = MAX_WAIT) -> AsyncIterator[Compiler]:
    compiler = Compiler(max_wait)
    try:
        yield compiler
    finally:
        await compiler.close()
    assert compiler.n_waiting == 0


# ---- Levels


async def test_a_quick_guide_takes_one_attempt() -> None:
    async with compiler() as c:
        assert await c.run(QUICK) == "compiled"
        assert c.vocabulary.tried == [(QUICK, SECONDS[0])]


async def test_a_slow_guide_gets_more_time_on_each_level() -> None:
    async with compiler() as c:
        c.vocabulary.may_go_on.set()
        assert await c.run(MIDDLE) == "compiled"
        assert c.vocabulary.seconds(MIDDLE) == list(SECONDS)
        assert await c.run(SLOW) == "InvalidRequest"
        assert c.vocabulary.seconds(SLOW) == list(SECONDS)
        assert c.stats.guide_trials == 2 * len(SECONDS)


async def test_a_quick_guide_does_not_wait_for_slow_ones() -> None:
    """Even if all have the same caller, as they do without API keys."""
    async with compiler() as c:
        slow = [c.start(f"{SLOW} {i}") for i in range(12)]
        await c.settle(11)
        assert await c.run(QUICK) == "compiled"
        assert not any(task.done() for task in slow)
        c.vocabulary.may_go_on.set()
        assert set(await asyncio.gather(*slow)) == {"InvalidRequest"}
        assert c.order[0] == QUICK


async def test_quick_guides_of_one_caller_do_not_delay_another_caller() -> None:
    async with compiler() as c:
        first = c.start(f"{GATED} first", "a")
        many = [c.start(f"{QUICK} {i}", "a") for i in range(50)]
        other = c.start(f"{QUICK} other", "b")
        await asyncio.sleep(0.01)
        c.vocabulary.may_go_on.set()
        assert set(await asyncio.gather(first, *many, other)) == {"compiled"}
        assert c.order.index(f"{QUICK} other") <= 3


async def test_slow_guides_of_one_caller_do_not_delay_another_caller() -> None:
    async with compiler() as c:
        many = [c.start(f"{SLOW} {i}", "a") for i in range(8)]
        await c.settle(7)
        other = c.start(MIDDLE, "b")
        await eventually(lambda: bool(c.vocabulary.seconds(MIDDLE)) and c.n_waiting == 8)
        c.vocabulary.may_go_on.set()
        assert await other == "compiled"
        assert set(await asyncio.gather(*many)) == {"InvalidRequest"}
        assert c.order.index(MIDDLE) <= 2


# ---- Memory


async def test_a_rejection_is_remembered() -> None:
    async with compiler() as c:
        c.vocabulary.may_go_on.set()
        for source, n_attempts in ((BAD, 1), (SLOW, len(SECONDS))):
            for _ in range(3):
                with pytest.raises(InvalidRequest) as caught:
                    await c.compile(Guide(contract.REGEX, source), "", 1)
                assert caught.value.tensor == "regex"
            assert len(c.vocabulary.seconds(source)) == n_attempts
        await c.run(BAD + " other")
        assert len(c.vocabulary.tried) == 2 + len(SECONDS)


async def test_an_accepted_guide_is_not_tried_again() -> None:
    """It is still compiled for each request, because copies share a lexer that grows."""
    async with compiler() as c:
        c.vocabulary.may_go_on.set()
        for n in (1, 3, 1):
            assert await c.run(QUICK, n=n) == "compiled"
            assert await c.run(MIDDLE, n=n) == "compiled"
        assert c.vocabulary.seconds(QUICK) == [SECONDS[0]]
        assert c.vocabulary.seconds(MIDDLE) == list(SECONDS)
        assert c.stats.guide_trials == 1 + len(SECONDS)
        assert c.vocabulary.compiled == {QUICK: 3, MIDDLE: 3}


async def test_equal_guides_that_wait_share_one_trial() -> None:
    """Also if their callers differ, and if one of the requests is cancelled."""
    async with compiler() as c:
        requests = [c.start(GATED, caller) for caller in ("a", "a", "b", "c")]
        slow = [c.start(MIDDLE, caller) for caller in ("a", "b", "b", "c")]
        await asyncio.sleep(0.01)
        requests.pop(0).cancel()
        slow.pop(0).cancel()
        c.vocabulary.may_go_on.set()
        assert set(await asyncio.gather(*requests, *slow)) == {"compiled"}
        assert len(c.vocabulary.seconds(GATED)) == 1
        assert c.vocabulary.seconds(MIDDLE) == list(SECONDS)


async def test_a_lost_trial_is_retried_and_not_remembered() -> None:
    async with compiler() as c:
        assert await c.run(LOST) == "compiled"
        assert len(c.vocabulary.seconds(LOST)) == 2
        c.vocabulary.n_losses = 2
        other = f"{LOST} twice"
        assert await c.run(other) == "QueueFull"
        assert await c.run(other) == "compiled", "a lost trial must not be remembered"


async def test_an_internal_error_is_not_remembered() -> None:
    async with compiler() as c:
        for _ in range(2):
            assert await c.run(BROKEN) == "RuntimeError"
        assert len(c.vocabulary.tried) == 2
        assert await c.run(QUICK) == "compiled"


async def test_a_guide_that_is_rejected_without_a_trial_does_not_wait() -> None:
    async with compiler() as c:
        gated = c.start(GATED)
        assert await c.run(TOO_LONG) == "InvalidRequest"
        assert not gated.done()
        c.vocabulary.may_go_on.set()
        assert await gated == "compiled"


# ---- Full queues


async def test_the_number_of_slow_guides_of_a_caller_is_limited() -> None:
    async with compiler() as c:
        n = MAX_SLOW_PER_CALLER + 6
        slow = [c.start(f"{SLOW} {i}", "a") for i in range(n)]
        await eventually(lambda: c.vocabulary.n_tried(SECONDS[0]) == n and c.vocabulary.n_tried(SECONDS[-1]) == 1)
        other = c.start(MIDDLE, "b")
        await eventually(lambda: bool(c.vocabulary.seconds(MIDDLE)))
        c.vocabulary.may_go_on.set()
        assert await other == "compiled"
        results = Counter(await asyncio.gather(*slow))
        # the first may already run when the others reach the last level
        assert results["InvalidRequest"] in (MAX_SLOW_PER_CALLER, MAX_SLOW_PER_CALLER + 1)
        assert results["QueueFull"] == c.stats.requests_refused == n - results["InvalidRequest"]
        rejected = next(i for i, task in enumerate(slow) if task.result() == "QueueFull")
        assert await c.run(f"{SLOW} {rejected}", "a") == "InvalidRequest", "a full queue must not be remembered"


async def test_the_number_of_guides_below_the_last_level_is_not_limited() -> None:
    """Grammars for many tools need more than the first level."""
    async with compiler() as c:
        c.vocabulary.last_level = SECONDS[1]
        c.vocabulary.may_go_on.set()
        many = [c.start(f"{MIDDLE} {i}") for i in range(3 * MAX_SLOW)]
        assert set(await asyncio.gather(*many)) == {"compiled"}


async def test_the_number_of_slow_guides_of_all_callers_is_limited() -> None:
    async with compiler() as c:
        n = MAX_SLOW // 10 + 1
        slow = [c.start(f"{SLOW} {caller} {i}", f"{caller}") for i in range(n) for caller in range(10)]
        await eventually(lambda: c.vocabulary.n_tried(SECONDS[0]) == 10 * n and c.vocabulary.n_tried(SECONDS[-1]) == 1)
        c.vocabulary.may_go_on.set()
        results = Counter(await asyncio.gather(*slow))
        assert results["InvalidRequest"] >= MAX_SLOW
        assert results["QueueFull"] == 10 * n - results["InvalidRequest"] > 0


async def test_a_guide_that_waits_too_long_is_rejected() -> None:
    async with compiler(max_wait=0.02) as c:
        gated, waiting = c.start(GATED), c.start(QUICK)
        assert await waiting == "QueueFull"
        assert c.n_waiting == 0
        assert not gated.done(), "a running trial is not ended"
        c.vocabulary.may_go_on.set()
        assert await gated == "compiled"
        assert await c.run(QUICK) == "compiled"


# ---- Cancellation and closing


async def test_a_cancelled_request_frees_its_place_in_the_queue() -> None:
    async with compiler() as c:
        gated = c.start(GATED)
        slow = [c.start(f"{SLOW} {i}") for i in range(3)]
        await asyncio.sleep(0.01)
        for task in slow:
            task.cancel()
        await asyncio.gather(*slow, return_exceptions=True)
        assert c.n_waiting == 0
        c.vocabulary.may_go_on.set()
        assert await gated == "compiled"
        assert await c.run(QUICK) == "compiled"
        assert not [source for source, _ in c.vocabulary.tried if source.startswith(SLOW)]


async def test_a_guide_whose_requests_are_cancelled_is_not_tried_on_the_next_level() -> None:
    async with compiler() as c:
        first = c.start(f"{SLOW} first")
        await c.settle(0)
        cancelled = c.start(f"{MIDDLE} cancelled")
        await c.settle(1)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        c.vocabulary.may_go_on.set()
        assert await first == "InvalidRequest"
        assert SECONDS[-1] not in c.vocabulary.seconds(f"{MIDDLE} cancelled")
        assert await c.run(f"{MIDDLE} cancelled") == "compiled"


async def test_closing_fails_all_requests() -> None:
    async with compiler() as c:
        requests = [c.start(source) for source in (GATED, SLOW, QUICK, f"{SLOW} 2", MIDDLE)]
        await asyncio.sleep(0.01)
        await c.close()
        assert set(await asyncio.gather(*requests)) == {"Draining"}
        assert await c.run(QUICK) == "Draining"
