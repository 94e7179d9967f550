import asyncio
from collections import defaultdict
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends.mailbox import MAX_WAITING_ROWS, PROMPTS_IN_FLIGHT, Cancel, Mailbox, merged
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.usage import Usage

USAGE = Usage(1, 2, 0)


class Calls:
    """The backend's side: which calls were started, which cancelled."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.cancelled: list[int] = []

    def start(self, k: int, _: Mailbox) -> Cancel:
        self.started.append(k)
        return lambda: self.cancelled.append(k)

    def mailbox(self, n_prompts: int = 1, ping_interval: float = 60) -> Mailbox:
        return Mailbox(n_prompts, self.start, ping_interval=ping_interval)


async def test_what_has_come_is_taken_at_once_and_the_end_is_none() -> None:
    mailbox = Calls().mailbox()
    mailbox.put(0, b"a", None)
    mailbox.put(0, b"b", "stop")
    mailbox.end(0, USAGE)
    assert await mailbox.take() == [(0, b"a", None, ()), (0, b"b", "stop", ())]
    assert mailbox.is_over
    assert await mailbox.take() == []
    assert mailbox.usages == [USAGE]


async def test_a_reader_is_woken() -> None:
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


class Sink:
    """What it has got. `is_free`: it accepts more."""

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


async def test_a_sink_gets_rows_while_the_reader_waits_on() -> None:
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


async def test_a_reader_gets_what_the_sink_refuses() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    sink.is_free = False
    reader = await waiting_reader(mailbox, sink)
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert await reader == [(0, b"a", None, ())]
    assert not sink.rows
    mailbox.close()


async def test_a_sink_gets_nothing_while_the_reader_does_something_else() -> None:
    mailbox, sink = Calls().mailbox(), Sink()
    mailbox.sink = sink
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    assert not sink.rows
    assert await mailbox.take() == [(0, b"a", None, ())]
    mailbox.close()


async def test_what_a_sink_raises_is_raised_in_the_reader() -> None:
    def broken(_: list[Row]) -> bool:
        raise ZeroDivisionError

    mailbox = Calls().mailbox()
    reader = await waiting_reader(mailbox, broken)
    mailbox.put(0, b"a", None)
    mailbox.deliver()
    with pytest.raises(ZeroDivisionError):
        await reader
    mailbox.close()


@pytest.mark.parametrize("how", ["closed", "failed"])
async def test_a_sink_gets_nothing_after_the_end(how: str) -> None:
    """The response may be over, and the connection another's."""
    mailbox, sink = Calls().mailbox(), Sink()
    reader = await waiting_reader(mailbox, sink)
    if how == "failed":
        mailbox.fail(0, BackendError("INTERNAL", "broken"))
    else:
        reader.cancel()
        mailbox.close()
    mailbox.put(0, b"late", None)
    mailbox.deliver()
    assert not sink.rows
    await asyncio.wait([reader])


async def test_rows_of_a_sink_end_the_silence() -> None:
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


async def test_a_reader_that_was_cancelled_misses_nothing() -> None:
    mailbox = Calls().mailbox()
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    reader.cancel()
    mailbox.put(0, b"a", None)
    await asyncio.wait((reader,))
    assert await mailbox.take() == [(0, b"a", None, ())]


async def test_silence_is_told_again_and_again() -> None:
    mailbox = Calls().mailbox(ping_interval=0.01)
    began = asyncio.get_running_loop().time()
    assert [await mailbox.take() for _ in range(3)] == [[], [], []]
    assert asyncio.get_running_loop().time() - began >= 0.03
    mailbox.put(0, b"a", "stop")
    assert await mailbox.take() == [(0, b"a", "stop", ())]
    mailbox.close()


async def test_the_end_of_one_prompt_of_several_is_no_silence() -> None:
    mailbox = Calls().mailbox(2)
    reader = asyncio.create_task(mailbox.take())
    await asyncio.sleep(0)
    mailbox.end(0, None)
    await asyncio.sleep(0)
    mailbox.put(1, b"a", None)
    mailbox.deliver()
    assert await reader == [(1, b"a", None, ())]
    mailbox.close()


async def test_who_is_not_waiting_hears_of_no_silence() -> None:
    mailbox = Calls().mailbox(ping_interval=0.01)
    await asyncio.sleep(0.05)
    mailbox.put(0, b"a", None)
    assert await mailbox.take() == [(0, b"a", None, ())]
    mailbox.close()


async def test_a_failure_comes_after_what_was_said_and_cancels_the_others() -> None:
    calls = Calls()
    mailbox = calls.mailbox(3)
    mailbox.put(1, b"a", None)
    mailbox.fail(1, BackendError("INTERNAL", "first"))
    mailbox.fail(2, BackendError("INTERNAL", "second"))
    assert sorted(calls.cancelled) == [0, 2]
    assert await mailbox.take() == [(1, b"a", None, ())]
    with pytest.raises(BackendError, match="first"):
        await mailbox.take()


async def test_closing_cancels_what_runs() -> None:
    calls = Calls()
    mailbox = calls.mailbox(3)
    mailbox.end(1, None)
    mailbox.close()
    mailbox.close()
    assert sorted(calls.cancelled) == [0, 2]


async def test_so_many_prompts_at_a_time() -> None:
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


async def test_a_call_that_fails_at_once() -> None:
    calls = Calls()

    def start(k: int, mailbox: Mailbox) -> Cancel:
        mailbox.fail(k, BackendError("UNAVAILABLE", "gone"))
        return lambda: calls.cancelled.append(k)

    mailbox = Mailbox(3, start, ping_interval=60)
    with pytest.raises(BackendError):
        await mailbox.take()


async def test_what_waits_for_a_slow_reader_is_as_large_as_its_text() -> None:
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
def test_merging_changes_no_text(rows: list[Row], at: int) -> None:
    def texts(told: list[Row]) -> dict[int, bytes]:
        whole: dict[int, bytes] = defaultdict(bytes)
        for index, token, *_ in told:
            whole[index] += token
        return whole

    assert texts(merged(rows[:at]) + rows[at:]) == texts(merged(merged(rows[:at]) + rows[at:])) == texts(rows)
    assert len(merged(rows)) == len({index for index, *_ in rows})
