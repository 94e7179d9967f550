"""One stream for many requests, on a fake backend without gRPC."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.backends import shared_stream
from openai_server.backends.mailbox import Cancel, Mailbox
from openai_server.backends.shared_stream import SharedStream, unnumbered
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import BackendError
from openai_server.core.rows import Row
from openai_server.core.usage import PromptUsage, Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse
from tests.wire.fake_worker import message

Rows = list[Row]


class Backend:
    """A fake backend: records sent messages and returns scripted responses."""

    def __init__(self) -> None:
        self.sent: asyncio.Queue[ModelInferRequest] = asyncio.Queue()
        self.may_send = asyncio.Event()
        self.may_send.set()
        self._answers: asyncio.Queue[ModelStreamInferResponse | BackendError | None] = asyncio.Queue()

    async def open(self, requests: AsyncIterator[ModelInferRequest]) -> AsyncGenerator[ModelStreamInferResponse, None]:
        sender = asyncio.create_task(self._send(requests))
        try:
            while (answer := await self._answers.get()) is not None:
                if isinstance(answer, BackendError):
                    raise answer
                await asyncio.sleep(0)  # gRPC takes a pass of the event loop even for a message that has arrived
                yield answer
        finally:
            sender.cancel()

    async def _send(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        async for request in requests:
            await self.may_send.wait()
            self.sent.put_nowait(request)

    async def number(self) -> int:
        """Returns the number of the next request."""
        return (await self.sent.get()).parameters[contract.PARAM_REQUEST].int64_param

    async def cancelled(self) -> int:
        return (await self.sent.get()).parameters[contract.PARAM_CANCEL].int64_param

    def send_rows(self, *rows: tuple[int, bytes, int]) -> None:
        self._put(list(rows), [])

    def send_beginnings(self, *rows: tuple[int, bytes, int], prompt: int = 3) -> None:
        counts: list[Any] = [
            (contract.ROW_PROMPT_TOKENS, [prompt] * len(rows)),
            (contract.ROW_CACHED_TOKENS, [1] * len(rows)),
        ]
        self._put(list(rows), counts)

    def send_ends(self, *rows: tuple[int, bytes, int], reason: bytes = b"stop") -> None:
        counts: list[Any] = [
            (contract.ROW_FINISH_REASON, [reason] * len(rows)),
            (contract.ROW_PROMPT_TOKENS, [3] * len(rows)),
            (contract.ROW_CACHED_TOKENS, [1] * len(rows)),
            (contract.ROW_COMPLETION_TOKENS, [2] * len(rows)),
        ]
        self._put(list(rows), counts)

    def send_error(self, number: int | None, status: str = "INTERNAL", reason: str = "") -> None:
        response = ModelStreamInferResponse(error_message="no")
        parameters = response.infer_response.parameters
        parameters[contract.ERROR_STATUS].string_param = status
        parameters[contract.ERROR_REASON].string_param = reason
        if number is not None:
            parameters[contract.PARAM_REQUEST].int64_param = number
        self._answers.put_nowait(response)

    def end_stream(self, error: BackendError | None = None) -> None:
        self._answers.put_nowait(error)

    def _put(self, rows: list[tuple[int, bytes, int]], more: list[Any]) -> None:
        numbers, tokens, indexes = ([row[i] for row in rows] for i in range(3))
        batch = message((contract.REQUEST, numbers), (contract.ROW_TOKEN, tokens), (contract.ROW_INDEX, indexes), *more)
        self._answers.put_nowait(ModelStreamInferResponse(infer_response=batch))


@asynccontextmanager
async def stream(
    timeout: float | None = None, *, takes_bundles: bool = False
) -> AsyncIterator[tuple[SharedStream, Backend]]:
    backend = Backend()
    shared = SharedStream(backend.open, timeout=timeout, takes_bundles=takes_bundles)
    try:
        async with asyncio.timeout(10):
            yield shared, backend
    finally:
        await shared.close()
    assert not shared._requests
    assert not shared._uncounted


def text(answer: Answer) -> str:
    (choice,) = answer.choices
    return choice.text


def start(shared: SharedStream, n: int = 1, prompts: int = 1) -> Mailbox:
    def start_call(k: int, mailbox: Mailbox) -> Cancel:
        return shared.start(ModelInferRequest(id=str(k)), n, k, mailbox)

    return Mailbox(prompts, start_call, ping_interval=60)


async def all_rows(mailbox: Mailbox) -> Rows:
    rows: Rows = []
    while not mailbox.is_over:
        rows += await mailbox.take()
    return rows


async def test_rows_are_delivered_to_their_requests() -> None:
    async with stream() as (shared, backend):
        first, second = start(shared), start(shared, n=2, prompts=2)
        a, b, c = [await backend.number() for _ in range(3)]
        backend.send_rows((b, b"b0", 0), (a, b"a", 0), (c, b"c1", 1), (c, b"c0", 0))
        backend.send_ends((a, b"!", 0), (b, b"", 0), (b, b"b1", 1))
        backend.send_ends((c, b"", 0), (c, b"", 1), reason=b"length")
        assert await all_rows(first) == [(0, b"a", None, ()), (0, b"!", "stop", ())]
        assert await all_rows(second) == [
            (0, b"b0", None, ()),
            (3, b"c1", None, ()),
            (2, b"c0", None, ()),
            (0, b"", "stop", ()),
            (1, b"b1", "stop", ()),
            (2, b"", "length", ()),
            (3, b"", "length", ()),
        ]
        assert first.usages == [Usage(3, 2, 1)]
        assert second.usages == [Usage(3, 4, 1), Usage(3, 4, 1)]


async def test_the_counts_of_a_prompt_arrive_before_its_first_row() -> None:
    async with stream() as (shared, backend):
        first, second = start(shared), start(shared, n=2, prompts=2)
        a, b, c = [await backend.number() for _ in range(3)]
        backend.send_beginnings((a, b"a", 0), (b, b"b0", 0))
        assert await first.take() == [(0, b"a", None, ())]
        assert (first.prompt_usage(), first.usage_so_far) == (PromptUsage(3, 1), Usage(3, 1, 1))
        assert (second.prompt_usage(), second.usage_so_far) == (None, None)  # those of its second prompt are missing
        backend.send_beginnings((b, b"b1", 1), (c, b"c1", 1), prompt=5)  # of b, a second choice begins
        while second.n_taken < 3:
            await second.take()
        assert (second.prompt_usage(), second.usage_so_far) == (PromptUsage(8, 2), Usage(8, 3, 2))
        backend.send_ends((a, b"", 0), (b, b"", 0), (b, b"", 1), (c, b"", 0), (c, b"", 1))
        await all_rows(first)
        assert first.usage_so_far == first.usages[0] == Usage(3, 2, 1)


async def test_an_older_backend_reports_the_counts_of_a_prompt_at_its_end() -> None:
    async with stream() as (shared, backend):
        mailbox, other = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        backend.send_rows((a, b"a", 0), (b, b"b", 0))
        await mailbox.take()
        assert (mailbox.prompt_usage(), mailbox.usage_so_far) == (None, None)
        backend.send_ends((a, b"", 0))
        await all_rows(mailbox)
        assert mailbox.prompt_usage() == PromptUsage(3, 1)
        assert other.prompt_usage() is None
        other.close()


async def test_an_error_fails_only_its_own_request() -> None:
    async with stream() as (shared, backend):
        bad, good = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        backend.send_error(a, "RESOURCE_EXHAUSTED", "queue_full")
        backend.send_error(None)
        backend.send_error(77)
        backend.send_ends((b, b"x", 0))
        with pytest.raises(BackendError) as caught:
            await bad.take()
        assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
        assert await all_rows(good) == [(0, b"x", "stop", ())]
        assert not shared.retired


async def test_a_draining_backend_gets_no_new_request() -> None:
    async with stream() as (shared, backend):
        old, new = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        backend.send_error(b, "UNAVAILABLE", contract.REASON_DRAINING)
        with pytest.raises(BackendError):
            await new.take()
        assert shared.retired
        backend.send_ends((a, b"x", 0))
        assert await all_rows(old) == [(0, b"x", "stop", ())]


@pytest.mark.parametrize("error", [None, BackendError("UNAVAILABLE", "gone"), BackendError("INTERNAL", "odd")])
async def test_losing_the_stream_fails_its_requests(error: BackendError | None) -> None:
    async with stream() as (shared, backend):
        mailboxes = [start(shared, prompts=2) for _ in range(3)]
        a = await backend.number()
        backend.send_rows((a, b"x", 0))
        backend.end_stream(error)
        assert await mailboxes[0].take() == [(0, b"x", None, ())]
        for mailbox in mailboxes:
            with pytest.raises(BackendError) as caught:
                await mailbox.take()
            assert caught.value.status == "UNAVAILABLE"
        assert shared.retired


@pytest.mark.parametrize("index", [-1, 1])
async def test_an_unexpected_choice_fails_its_request(index: int) -> None:
    async with stream() as (shared, backend):
        bad, good = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        backend.send_ends((a, b"x", index), (b, b"y", 0))
        with pytest.raises(BackendError, match="sent choice"):
            await bad.take()
        assert await all_rows(good) == [(0, b"y", "stop", ())]
        assert await backend.cancelled() == a


async def test_an_invalid_step_batch_ends_the_stream() -> None:
    async with stream() as (shared, backend):
        mailbox = start(shared)
        backend._answers.put_nowait(ModelStreamInferResponse(infer_response=message((contract.TOKEN, [b"a"]))))
        with pytest.raises(BackendError) as caught:
            await mailbox.take()
        assert caught.value.status == "UNAVAILABLE"


async def test_a_closed_request_is_cancelled_and_gets_no_rows() -> None:
    async with stream() as (shared, backend):
        closed, other = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        closed.close()
        assert await backend.cancelled() == a
        backend.send_rows((a, b"late", 0), (b, b"x", 0))
        backend.send_ends((a, b"later", 0), (b, b"", 0))
        assert await all_rows(other) == [(0, b"x", None, ()), (0, b"", "stop", ())]
        closed.close()
        assert backend.sent.empty()


async def test_a_request_closed_before_it_is_sent_is_never_sent() -> None:
    async with stream() as (shared, backend):
        backend.may_send.clear()
        first = start(shared)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        closed, last = start(shared), start(shared)
        closed.close()
        backend.may_send.set()
        assert [await backend.number(), await backend.number()] == [0, 2]
        first.close()
        last.close()
        assert {await backend.cancelled(), await backend.cancelled()} == {0, 2}


async def test_a_request_without_a_response_times_out() -> None:
    async with stream(timeout=0.05) as (shared, backend):
        mailbox = start(shared)
        request = await backend.sent.get()
        assert request.parameters[contract.PARAM_TIMEOUT].int64_param == 50_000
        with pytest.raises(BackendError) as caught:
            await mailbox.take()
        assert caught.value.status == "DEADLINE_EXCEEDED"
        assert await backend.cancelled() == 0


async def test_request_numbers_wrap_around_and_skip_those_in_use() -> None:
    async with stream() as (shared, backend):
        waiting = start(shared)
        assert await backend.number() == 0
        shared._last_number = contract.INT32_MAX - 1
        others = [start(shared), start(shared)]
        assert [await backend.number(), await backend.number()] == [contract.INT32_MAX, 1]
        for mailbox in (waiting, *others):
            mailbox.close()


async def test_a_slow_reader_does_not_delay_other_requests() -> None:
    async with stream() as (shared, backend):
        slow, fast = start(shared), start(shared)
        a, b = await backend.number(), await backend.number()
        for _ in range(5000):
            backend.send_rows((a, b"s", 0), (b, b"f", 0))
        backend.send_ends((a, b"", 0), (b, b"", 0))
        assert b"".join(token for _, token, *_ in await all_rows(fast)) == b"f" * 5000
        assert b"".join(token for _, token, *_ in await all_rows(slow)) == b"s" * 5000


@given(
    texts=st.lists(st.lists(st.binary(max_size=3), min_size=1, max_size=6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
async def test_any_interleaving_gives_the_same_texts(texts: list[list[bytes]], order: Any) -> None:
    async with stream() as (shared, backend):
        mailboxes = [start(shared) for _ in texts]
        numbers = [await backend.number() for _ in texts]
        remaining = [list(tokens) for tokens in texts]
        while any(remaining):
            chosen = order.sample([i for i, tokens in enumerate(remaining) if tokens], 1)
            chosen += [i for i, tokens in enumerate(remaining) if tokens and i not in chosen and order.random() < 0.5]
            backend.send_rows(*((numbers[i], remaining[i].pop(0), 0) for i in chosen))
        backend.send_ends(*((number, b"", 0) for number in numbers))
        for mailbox, tokens in zip(mailboxes, texts, strict=True):
            assert b"".join(token for _, token, *_ in await all_rows(mailbox)) == b"".join(tokens)


# ---- Delivery


async def test_rows_of_several_step_batches_are_delivered_in_order() -> None:
    deliveries: list[Rows] = []

    def sink(rows: Rows) -> bool:
        deliveries.append(rows)
        return True

    async with stream() as (shared, backend):
        mailbox = start(shared)
        number = await backend.number()
        mailbox.sink = sink
        reader = asyncio.create_task(all_rows(mailbox))
        texts = [b"%d," % i for i in range(100)]
        for text in texts:
            backend.send_rows((number, text, 0))
        backend.send_ends((number, b"", 0))
        rest = await reader
    assert [token for rows in (*deliveries, rest) for _, token, *_ in rows] == [*texts, b""]


async def test_a_single_step_batch_is_delivered_at_once() -> None:
    deliveries: asyncio.Queue[Rows] = asyncio.Queue()

    def sink(rows: Rows) -> bool:
        deliveries.put_nowait(rows)
        return True

    async with stream() as (shared, backend):
        mailbox = start(shared)
        number = await backend.number()
        mailbox.sink = sink
        reader = asyncio.create_task(all_rows(mailbox))
        for text in (b"a", b"b", b"c"):
            backend.send_rows((number, text, 0))
            assert await deliveries.get() == [(0, text, None, ())]
        backend.send_ends((number, b"", 0))
        assert await reader == [(0, b"", "stop", ())]


# ---- Whole answers


async def test_whole_answers_are_returned_to_their_requests() -> None:
    async with stream() as (shared, backend):
        first, second = (asyncio.create_task(shared.answer(ModelInferRequest(id=id), 1)) for id in "ab")
        a, b = await backend.sent.get(), await backend.sent.get()
        assert all(request.parameters[contract.PARAM_WHOLE].bool_param for request in (a, b))
        backend.send_ends((b.parameters[contract.PARAM_REQUEST].int64_param, b"second", 0))
        backend.send_ends((a.parameters[contract.PARAM_REQUEST].int64_param, b"first", 0))
        assert text(await first) == "first"
        assert text(await second) == "second"
        assert backend.sent.empty()


async def test_a_whole_answer_has_the_choices_and_counts() -> None:
    async with stream() as (shared, backend):
        answer = asyncio.create_task(shared.answer(ModelInferRequest(), 2))
        number = await backend.number()
        backend.send_rows((number, b"\xc3", 1))
        backend.send_ends((number, b"\xa4", 1), reason=b"length")
        assert not answer.done()
        backend.send_ends((number, b"\xff", 0))
        assert await answer == Answer([Choice(0, "\ufffd", "stop"), Choice(1, "ä", "length")], Usage(3, 4, 1))


@pytest.mark.parametrize("index", [-1, 1])
async def test_an_unexpected_choice_fails_the_whole_answer(index: int) -> None:
    async with stream() as (shared, backend):
        answer = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        number = await backend.number()
        backend.send_ends((number, b"x", index))
        with pytest.raises(BackendError, match=f"sent choice {index} of 1"):
            await answer
        assert await backend.cancelled() == number


async def test_an_error_response_fails_the_whole_answer() -> None:
    async with stream() as (shared, backend):
        answer = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        backend.send_error(await backend.number(), "RESOURCE_EXHAUSTED", "queue_full")
        with pytest.raises(BackendError) as caught:
            await answer
        assert (caught.value.status, caught.value.reason) == ("RESOURCE_EXHAUSTED", "queue_full")


async def test_losing_the_stream_fails_whole_answers() -> None:
    async with stream() as (shared, backend):
        answer = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        await backend.number()
        backend.end_stream()
        with pytest.raises(BackendError) as caught:
            await answer
        assert caught.value.status == "UNAVAILABLE"


async def test_a_cancelled_whole_answer_is_cancelled_on_the_backend() -> None:
    async with stream() as (shared, backend):
        closed, other = (asyncio.create_task(shared.answer(ModelInferRequest(), 1)) for _ in range(2))
        a, b = await backend.number(), await backend.number()
        closed.cancel()
        assert await backend.cancelled() == a
        backend.send_ends((a, b"late", 0))
        backend.send_ends((b, b"x", 0))
        assert text(await other) == "x"


async def test_a_whole_answer_times_out() -> None:
    async with stream(timeout=0.05) as (shared, backend):
        answer = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        request = await backend.sent.get()
        assert request.parameters[contract.PARAM_TIMEOUT].int64_param == 50_000
        with pytest.raises(BackendError) as caught:
            await answer
        assert caught.value.status == "DEADLINE_EXCEEDED"
        assert await backend.cancelled() == 0


async def test_unnumbered_removes_the_parameters_of_the_stream() -> None:
    request = ModelInferRequest(id="a")
    async with stream() as (shared, backend):
        answer = asyncio.create_task(shared.answer(request, 1))
        backend.send_error(await backend.number())
        with pytest.raises(BackendError):
            await answer
    assert unnumbered(request) == ModelInferRequest(id="a")


async def test_the_end_of_a_stream_ends_its_sender() -> None:
    """Otherwise gRPC's task would be destroyed while it waits, which logs an error."""
    async with stream() as (shared, backend):
        first = asyncio.ensure_future(anext(shared._outgoing()))
        await asyncio.sleep(0)
        backend.end_stream()
        with pytest.raises(StopAsyncIteration):
            await first


# ---- Bundles


async def test_waiting_requests_are_sent_as_one_message() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        backend.may_send.clear()
        first = start(shared)
        for _ in range(5):
            await asyncio.sleep(0)  # lets the stream take the first
        others = [start(shared) for _ in range(3)]
        backend.may_send.set()
        assert await backend.number() == 0
        bundle = await backend.sent.get()
        assert bundle.parameters[contract.PARAM_BUNDLE].bool_param
        requests = [ModelInferRequest.FromString(part) for part in bundle.raw_input_contents]
        numbers = [request.parameters[contract.PARAM_REQUEST].int64_param for request in requests]
        assert numbers == [1, 2, 3]
        assert backend.sent.empty()
        backend.send_ends(*((number, b"x", 0) for number in range(4)))
        for mailbox in (first, *others):
            assert await all_rows(mailbox) == [(0, b"x", "stop", ())]


async def test_a_closed_request_is_in_no_bundle() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [start(shared) for _ in range(3)]
        mailboxes[1].close()
        bundle = await backend.sent.get()
        requests = [ModelInferRequest.FromString(part) for part in bundle.raw_input_contents]
        assert [request.parameters[contract.PARAM_REQUEST].int64_param for request in requests] == [0, 2]
        for mailbox in mailboxes:
            mailbox.close()


@pytest.mark.parametrize(("limit", "sizes"), [(0, [1, 1, 1]), (60, [2, 1])])
async def test_a_bundle_has_a_limit_of_bytes(limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(_numbered(0).SerializeToString())
    monkeypatch.setattr(shared_stream, "MAX_BUNDLE_BYTES", limit and 2 * size + 1)
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [start(shared) for _ in range(3)]
        counts = []
        for _ in sizes:
            sent = await backend.sent.get()
            counts.append(len(sent.raw_input_contents) or 1)
        assert counts == sizes
        for mailbox in mailboxes:
            mailbox.close()


async def test_a_bundle_has_a_limit_of_requests() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [start(shared) for _ in range(contract.MAX_BUNDLE + 1)]
        assert len((await backend.sent.get()).raw_input_contents) == contract.MAX_BUNDLE
        assert await backend.number() == contract.MAX_BUNDLE
        for mailbox in mailboxes:
            mailbox.close()


async def test_a_backend_without_bundles_gets_each_request_alone() -> None:
    async with stream() as (shared, backend):
        mailboxes = [start(shared) for _ in range(3)]
        assert [await backend.number() for _ in mailboxes] == [0, 1, 2]
        for mailbox in mailboxes:
            mailbox.close()


def _numbered(number: int) -> ModelInferRequest:
    request = ModelInferRequest(id="0")
    request.parameters[contract.PARAM_REQUEST].int64_param = number
    return request
