"""The outbox of a stream: the order, grouping and limit of the messages that wait to be read."""

import asyncio

import pytest

from anyserve_worker.service.outbox import MAX_RESPONSES, Outbox
from anyserve_worker.service.step_batch import Row
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse
from tests.anyserve_worker.fakes import WAIT_TIMEOUT
from tests.anyserve_worker.service.fakes import delta, outputs, run_pending_tasks


class Reader:
    """Reads from an outbox; `sent` are the numbers of ends that the outbox reports as sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.outbox = Outbox(self.sent.append)
        self._messages = aiter(self.outbox)

    async def next(self) -> str | list[tuple[int, bytes]]:
        """Returns the error or the rows (number, text) of the next message."""
        async with asyncio.timeout(WAIT_TIMEOUT):
            message = await anext(self._messages)
        if message.error_message:
            return message.error_message
        batch = outputs(message.infer_response)
        return list(zip(batch["request"], batch["token"], strict=True))

    async def rest(self) -> list[ModelStreamInferResponse]:
        async with asyncio.timeout(WAIT_TIMEOUT):
            return [message async for message in self._messages]

    async def put(self, text: str, *, ends: bool = False) -> None:
        async with asyncio.timeout(WAIT_TIMEOUT):
            await self.outbox.put(response(text), ends=ends)


@pytest.fixture
async def reader() -> Reader:
    return Reader()


def row(number: int, text: str, reason: str | None = None) -> Row:
    return number, delta(text, reason)


def response(text: str) -> ModelStreamInferResponse:
    return ModelStreamInferResponse(error_message=text)


async def test_rows_added_between_two_reads_are_one_message(reader: Reader) -> None:
    for i in range(1000):
        reader.outbox.add_row(row(i % 4, "x", "stop" if i >= 996 else None), ends=i >= 996)
    assert await reader.next() == [(number, b"x" * 250) for number in range(4)]
    assert reader.sent == []
    reader.outbox.close()
    assert await reader.rest() == []
    assert reader.sent == [4]


async def test_an_error_follows_the_rows_of_its_request_and_precedes_later_rows(reader: Reader) -> None:
    reader.outbox.add_row(row(1, "a"), ends=False)
    reader.outbox.add(response("no"))
    assert await reader.next() == [(1, b"a")]
    reader.outbox.add_row(row(2, "b"), ends=False)
    assert await reader.next() == "no"
    reader.outbox.close()
    assert await reader.next() == [(2, b"b")]
    assert await reader.rest() == []


async def test_responses_keep_their_order(reader: Reader) -> None:
    await reader.put("first")
    reader.outbox.add(response("second"))
    await reader.put("third", ends=True)
    assert [await reader.next() for _ in range(3)] == ["first", "second", "third"]


async def test_put_waits_while_the_outbox_is_full(reader: Reader) -> None:
    for i in range(MAX_RESPONSES):
        await reader.put(f"{i}")
    waiting = asyncio.ensure_future(reader.put("last", ends=True))
    await run_pending_tasks()
    assert not waiting.done()
    reader.outbox.add(response("at once"))
    texts = [await reader.next() for _ in range(MAX_RESPONSES + 2)]
    assert texts[-2:] == ["at once", "last"]
    await waiting


async def test_reading_a_response_frees_its_place(reader: Reader) -> None:
    for _ in range(2 * MAX_RESPONSES):
        await reader.put("x")
        assert await reader.next() == "x"
        reader.outbox.add(response("y"))
        assert await reader.next() == "y"


async def test_an_end_is_reported_as_sent_when_the_transport_has_accepted_it(reader: Reader) -> None:
    reader.outbox.add_row(row(1, "a", "stop"), ends=True)
    reader.outbox.add(response("no"))
    await reader.put("part")
    await reader.next()
    assert sum(reader.sent) == 0
    await reader.next()
    assert sum(reader.sent) == 1
    await reader.next()
    assert sum(reader.sent) == 2
    reader.outbox.close()
    await reader.rest()
    assert sum(reader.sent) == 2


async def test_messages_added_before_closing_are_still_read(reader: Reader) -> None:
    reader.outbox.add_row(row(1, "a"), ends=False)
    reader.outbox.add(response("no"))
    reader.outbox.close()
    assert await reader.next() == [(1, b"a")]
    assert await reader.next() == "no"
    assert await reader.rest() == []


async def test_closing_ends_a_read_that_waits(reader: Reader) -> None:
    waiting = asyncio.ensure_future(reader.rest())
    await run_pending_tasks()
    reader.outbox.close()
    assert await waiting == []
