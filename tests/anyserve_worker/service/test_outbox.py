"""What waits for the client of a stream to read it: in which order, in how many messages, and how much of it."""

import asyncio

import pytest

from anyserve_worker.service.outbox import MAX_RESPONSES, Outbox
from anyserve_worker.service.step_batch import Row
from protos.grpc_predict_v2_pb2 import ModelStreamInferResponse
from tests.anyserve_worker.fakes import PATIENCE
from tests.anyserve_worker.service.fakes import delta, everything_else_has_run, outputs


class Reader:
    """The client's side of an outbox, and what the outbox reports as sent."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.outbox = Outbox(self.sent.append)
        self._messages = aiter(self.outbox)

    async def next(self) -> str | list[tuple[int, bytes]]:
        """The error or the rows of the next message."""
        async with asyncio.timeout(PATIENCE):
            message = await anext(self._messages)
        if message.error_message:
            return message.error_message
        batch = outputs(message.infer_response)
        return list(zip(batch["request"], batch["token"], strict=True))

    async def rest(self) -> list[ModelStreamInferResponse]:
        async with asyncio.timeout(PATIENCE):
            return [message async for message in self._messages]

    async def put(self, text: str, *, ends: bool = False) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.outbox.put(response(text), ends=ends)


@pytest.fixture
async def reader() -> Reader:
    return Reader()


def row(number: int, text: str, reason: str | None = None) -> Row:
    return number, delta(text, reason)


def response(text: str) -> ModelStreamInferResponse:
    return ModelStreamInferResponse(error_message=text)


async def test_what_gathers_while_nothing_is_read_is_one_message(reader: Reader) -> None:
    for i in range(1000):
        reader.outbox.add_row(row(i % 4, "x", "stop" if i >= 996 else None), ends=i >= 996)
    assert await reader.next() == [(number, b"x" * 250) for number in range(4)]
    assert reader.sent == []
    reader.outbox.close()
    assert await reader.rest() == []
    assert reader.sent == [4]


async def test_an_error_comes_behind_the_rows_of_its_request_and_others_do_not_hold_it_up(reader: Reader) -> None:
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


async def test_responses_of_single_requests_wait_for_a_place(reader: Reader) -> None:
    for i in range(MAX_RESPONSES):
        await reader.put(f"{i}")
    waiting = asyncio.ensure_future(reader.put("last", ends=True))
    await everything_else_has_run()
    assert not waiting.done()
    reader.outbox.add(response("at once"))
    texts = [await reader.next() for _ in range(MAX_RESPONSES + 2)]
    assert texts[-2:] == ["at once", "last"]
    await waiting


async def test_a_place_is_free_again_when_its_response_was_accepted(reader: Reader) -> None:
    for _ in range(2 * MAX_RESPONSES):
        await reader.put("x")
        assert await reader.next() == "x"
        reader.outbox.add(response("y"))
        assert await reader.next() == "y"


async def test_an_end_counts_when_the_transport_has_accepted_it(reader: Reader) -> None:
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


async def test_what_was_added_before_the_outbox_was_closed_is_still_read(reader: Reader) -> None:
    reader.outbox.add_row(row(1, "a"), ends=False)
    reader.outbox.add(response("no"))
    reader.outbox.close()
    assert await reader.next() == [(1, b"a")]
    assert await reader.next() == "no"
    assert await reader.rest() == []


async def test_an_outbox_that_is_closed_while_it_waits_ends(reader: Reader) -> None:
    waiting = asyncio.ensure_future(reader.rest())
    await everything_else_has_run()
    reader.outbox.close()
    assert await waiting == []
