import asyncio
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.mailbox import MAX_WAITING_ROWS, PROMPTS_IN_FLIGHT, Cancel, Mailbox, merged
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage

USAGE = Usage(1, 2, 0)


class Calls:
    """A fake backend that records started and cancelled calls."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []

    def start(self, k: int, _: Mailbox) -> Cancel:
        self.started.append(k)
        return lambda: self.cancelled.append(k)

    def mailbox(self, n_prompts: int = 1, ping_interval: float = 60) -> Mailbox:
        return Mailbox(n_prompts, self.start, ping_interval=ping_interval)


async def test_take_returns_waiting_rows_at_once_and_nothing_after_the_end() -> None:
    mailbox = Calls().mailbox()
    mailbox.put(0, b"a", None)
    mailbox.put(0, b"b", "stop")
    mailbox.end(0, USAGE)
    assert await mailbox.take() == [(0, b"a", None, ()), (0, b"b", "stop", ())]
    assert mailbox.is_over
    assert await mailbox.take() == []
    assert mailbox.usages == [USAGE]


async def test_a_waiting_reader_is_woken_by_rows_and_by_the_end() -> None:
    mailbox = Calls().mailbox()

    async def waiting() -> "asyncio.Task[list[Row]]":
        reader = asyncio.create_task(mailbox.take())
        await asyncio.sleep(0)
        assert not reader.done()
        return reader

    reader = await waiting()
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert await reader == [(0, b"a", None, ())]
    reader = await waiting()
    mailbox.end(0, None)
    assert await reader == []
    assert mailbox.is_over
    mailbox.close()


async def test_the_usage_so_far_has_a_token_for_each_taken_row() -> None:
    mailbox = Calls().mailbox(n_prompts=PROMPTS_IN_FLIGHT + 1)
    assert mailbox.usage_so_far is None
    for k in range(PROMPTS_IN_FLIGHT):
        mailbox.begin(k, PromptUsage(10, 1))
        mailbox.put(k, b"a", None)
    assert mailbox.prompt_usage() is None  # that of the last prompt, which is not started, is unknown
    assert mailbox.usage_so_far == Usage(10 * PROMPTS_IN_FLIGHT, 0, PROMPTS_IN_FLIGHT)
    await mailbox.take()
    assert mailbox.usage_so_far == Usage(10 * PROMPTS_IN_FLIGHT, PROMPTS_IN_FLIGHT, PROMPTS_IN_FLIGHT)
    mailbox.close()


async def test_the_backends_counts_replace_fewer_rows() -> None:
    mailbox = Calls().mailbox(2)
    mailbox.begin(1, PromptUsage(10, None))
    mailbox.put(0, b"a", "stop")
    mailbox.end(0, Usage(5, 7, 3))
    await mailbox.take()
    assert mailbox.usage_so_far == Usage(15, 7, None)
    mailbox.close()


async def test_progress_wakes_the_reader_even_if_a_sink_takes_the_rows() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    reader = await waiting_reader(mailbox, sink)
    mailbox.report([Progress(9, 4, 4, 0.0)])
    assert await reader == []
    mailbox.report([Progress(9, 4, 9, 1.0)])
    assert await mailbox.take() == []
    assert [progress.processed for progress in mailbox.take_progress()] == [4, 9]
    assert mailbox.take_progress() == []
    reader = await waiting_reader(mailbox, sink)
    mailbox.report([Progress(9, 4, 9, 1.0)])
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert await reader == [(0, b"a", None, ())]
    assert sink.rows == []
    mailbox.close()


async def test_the_usage_so_far_has_the_tokens_of_the_times() -> None:
    mailbox = Calls().mailbox()
    mailbox.begin(0, PromptUsage(5, 3))
    mailbox.put(0, b"ab", None)
    mailbox.timings = Timings(Usage(5, 2, 3), 1, 1.0, 1.0)
    await mailbox.take()
    assert mailbox.usage_so_far == Usage(5, 2, 3)
    mailbox.close()


class Sink:
    """Records rows. `is_free`: it accepts more."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.is_free = True

    def __call__(self, rows: list[Row]) -> bool:
        if self.is_free:
            self.rows += rows
        return self.is_free


async def waiting_reader(mailbox: Mailbox, sink: Callable[[list[Row]], bool]) -> "asyncio.Task[list[Row]]":
    mailbox.sink = sink
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    return reader


async def test_a_sink_gets_rows_while_the_reader_waits() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    reader = await waiting_reader(mailbox, sink)
    mailbox.put(0, b"a", None)
    mailbox.put(0, b"b", None)
    mailbox.deliver()
    mailbox.deliver()
    await asyncio.sleep(0)
    assert sink.rows == [(0, b"a", None, ()), (0, b"b", None, ())]
    assert not reader.done()
    assert mailbox.n_taken == 2
    mailbox.put(0, b"c", "stop")
    mailbox.end(0, USAGE)
    assert await reader == [(0, b"c", "stop", ())]
    assert len(sink.rows) == 2
    mailbox.close()


async def test_a_reader_gets_rows_that_the_sink_does_not_accept() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    sink.is_free = False
    reader = await waiting_reader(mailbox, sink)
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert await reader == [(0, b"a", None, ())]
    assert not sink.rows
    mailbox.close()


async def test_a_sink_gets_no_rows_while_no_reader_waits() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    mailbox.sink = sink
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert not sink.rows
    assert await mailbox.take() == [(0, b"a", None, ())]
    mailbox.close()


async def test_an_error_of_the_sink_is_raised_in_the_reader() -> None:
    def broken(_: list[Row]) -> bool:
        raise ZeroDivisionError

    mailbox = Calls().mailbox()
    reader = await waiting_reader(mailbox, broken)
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    with pytest.raises(ZeroDivisionError):
        await reader
    mailbox.close()


@pytest.mark.parametrize("end", ["closed", "failed"])
async def test_a_sink_gets_no_rows_after_the_end(end: str) -> None:
    """The response may be complete, and the connection in use by another one."""
    mailbox, sink = Calls().mailbox(), Sink()
    reader = await waiting_reader(mailbox, sink)
    if end == "failed":
        mailbox.fail(0, BackendError("INTERNAL", "broken"))
    else:
        reader.cancel()
        mailbox.close()
    mailbox.put(0, b"late", None)
    mailbox.deliver()
    assert not sink.rows
    await asyncio.wait([reader])


async def test_rows_of_a_sink_restart_the_ping_interval() -> None:
    mailbox, sink = Calls().mailbox(ping_interval=60), Sink()
    reader = await waiting_reader(mailbox, sink)
    mailbox._waits_since -= 60
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    mailbox._watch_for_silence()
    await asyncio.sleep(0)
    assert not reader.done()
    mailbox._waits_since -= 60
    mailbox._watch_for_silence()
    assert await reader == []
    assert not mailbox.is_over
    mailbox.close()


async def test_rows_of_a_cancelled_reader_are_not_lost() -> None:
    mailbox = Calls().mailbox()
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    reader.cancel()
    mailbox.put(0, b"a", None)
    await asyncio.wait((reader,))
    assert await mailbox.take() == [(0, b"a", None, ())]


async def test_take_returns_no_rows_once_every_ping_interval() -> None:
    mailbox = Calls().mailbox(ping_interval=0.01)
    started = asyncio.get_running_loop().time()
    assert [await mailbox.take() for _ in range(3)] == [[], [], []]
    assert asyncio.get_running_loop().time() - started >= 0.03
    mailbox.put(0, b"a", "stop")
    assert await mailbox.take() == [(0, b"a", "stop", ())]
    mailbox.close()


async def test_the_end_of_one_of_several_prompts_does_not_wake_the_reader() -> None:
    mailbox = Calls().mailbox(2)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.end(0, None)
    await asyncio.sleep(0)
    mailbox.put(1, b"a", None)
    mailbox.deliver()
    assert await reader == [(1, b"a", None, ())]
    mailbox.close()


async def test_ping_intervals_count_only_while_a_reader_waits() -> None:
    mailbox = Calls().mailbox(ping_interval=0.01)
    await asyncio.sleep(0.05)
    mailbox.put(0, b"a", None)
    assert await mailbox.take() == [(0, b"a", None, ())]
    mailbox.close()


async def test_a_failure_follows_waiting_rows_and_cancels_the_other_prompts() -> None:
    calls = Calls()
    mailbox = calls.mailbox(3)
    mailbox.put(1, b"a", None)
    mailbox.fail(1, BackendError("INTERNAL", "first"))
    mailbox.fail(2, BackendError("INTERNAL", "second"))
    assert sorted(calls.cancelled) == [0, 2]
    assert await mailbox.take() == [(1, b"a", None, ())]
    with pytest.raises(BackendError, match="first"):
        await mailbox.take()


async def test_closing_cancels_running_calls() -> None:
    calls = Calls()
    mailbox = calls.mailbox(3)
    mailbox.end(1, None)
    mailbox.close()
    mailbox.close()
    assert sorted(calls.cancelled) == [0, 2]


async def test_the_number_of_concurrent_prompts_is_limited() -> None:
    calls = Calls()
    mailbox = calls.mailbox(PROMPTS_IN_FLIGHT + 2)
    assert calls.started == list(range(PROMPTS_IN_FLIGHT))
    mailbox.end(3, None)
    assert calls.started[-1] == PROMPTS_IN_FLIGHT
    for k in range(PROMPTS_IN_FLIGHT + 2):
        if k != 3:
            mailbox.end(k, None)
    assert calls.started == list(range(PROMPTS_IN_FLIGHT + 2))
    assert mailbox.is_over
    assert await mailbox.take() == []


async def test_a_call_may_fail_while_it_starts() -> None:
    calls = Calls()

    def start(k: int, mailbox: Mailbox) -> Cancel:
        mailbox.fail(k, BackendError("UNAVAILABLE", "gone"))
        return lambda: calls.cancelled.append(k)

    mailbox = Mailbox(3, start, ping_interval=60)
    with pytest.raises(BackendError):
        await mailbox.take()


async def test_rows_that_wait_for_a_slow_reader_are_merged() -> None:
    mailbox = Calls().mailbox()
    for i in range(10_000):
        mailbox.put(i % 3, b"x", "stop" if i == 9_999 else None)
    rows = await mailbox.take()
    assert rows is not None
    assert len(rows) < MAX_WAITING_ROWS + 3
    assert rows[-1][2] == "stop"
    assert sum(len(token) for _, token, *_ in rows) == 10_000


rows = st.lists(st.tuples(st.integers(0, 2), st.binary(max_size=3), st.none(), st.just(())))


@given(rows=rows, at=st.integers(0, 20))
def test_merging_does_not_change_the_text(rows: list[Row], at: int) -> None:
    def texts(chunk: list[Row]) -> dict[int, bytes]:
        whole: dict[int, bytes] = defaultdict(bytes)
        for index, token, *_ in chunk:
            whole[index] += token
        return whole

    assert texts(merged(rows[:at]) + rows[at:]) == texts(merged(merged(rows[:at]) + rows[at:])) == texts(rows)
    assert len(merged(rows)) == len({index for index, *_ in rows})
