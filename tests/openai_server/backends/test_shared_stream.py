"""One stream for many requests, before a backend that is a script: no gRPC here."""

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
from openai_server.core.usage import Usage
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse
from tests.wire.fake_worker import message

Said = list[Row]


class Backend:
    """What was sent on the stream, and what it answers."""

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
                await asyncio.sleep(0)  # as gRPC, which takes a pass of the event loop even for what has come
                yield answer
        finally:
            sender.cancel()

    async def _send(self, requests: AsyncIterator[ModelInferRequest]) -> None:
        async for request in requests:
            await self.may_send.wait()
            self.sent.put_nowait(request)

    async def number(self) -> int:
        """Of the next request that arrives."""
        return (await self.sent.get()).parameters[contract.PARAM_REQUEST].int64_param

    async def cancelled(self) -> int:
        return (await self.sent.get()).parameters[contract.PARAM_CANCEL].int64_param

    def says(self, *rows: tuple[int, bytes, int]) -> None:
        self._put(list(rows), [])

    def ends(self, *rows: tuple[int, bytes, int], reason: bytes = b"stop") -> None:
        counts: list[Any] = [
            (contract.ROW_FINISH_REASON, [reason] * len(rows)),
            (contract.ROW_PROMPT_TOKENS, [3] * len(rows)),
            (contract.ROW_CACHED_TOKENS, [1] * len(rows)),
            (contract.ROW_COMPLETION_TOKENS, [2] * len(rows)),
        ]
        self._put(list(rows), counts)

    def refuses(self, number: int | None, status: str = "INTERNAL", reason: str = "") -> None:
        response = ModelStreamInferResponse(error_message="no")
        parameters = response.infer_response.parameters
        parameters[contract.ERROR_STATUS].string_param = status
        parameters[contract.ERROR_REASON].string_param = reason
        if number is not None:
            parameters[contract.PARAM_REQUEST].int64_param = number
        self._answers.put_nowait(response)

    def breaks(self, error: BackendError | None = None) -> None:
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


def text(answer: Answer) -> str:
    (choice,) = answer.choices
    return choice.text


def ask(shared: SharedStream, n: int = 1, prompts: int = 1) -> Mailbox:
    def start(k: int, mailbox: Mailbox) -> Cancel:
        return shared.start(ModelInferRequest(id=str(k)), n, k, mailbox)

    return Mailbox(prompts, start, ping_interval=60)


async def whole(mailbox: Mailbox) -> Said:
    said: Said = []
    while not mailbox.is_over:
        said += await mailbox.take()
    return said


async def test_rows_go_to_whom_they_belong() -> None:
    async with stream() as (shared, backend):
        one, two = ask(shared), ask(shared, n=2, prompts=2)
        a, b, c = [await backend.number() for _ in range(3)]
        backend.says((b, b"b0", 0), (a, b"a", 0), (c, b"c1", 1), (c, b"c0", 0))
        backend.ends((a, b"!", 0), (b, b"", 0), (b, b"b1", 1))
        backend.ends((c, b"", 0), (c, b"", 1), reason=b"length")
        assert await whole(one) == [(0, b"a", None, ()), (0, b"!", "stop", ())]
        assert await whole(two) == [
            (0, b"b0", None, ()),
            (3, b"c1", None, ()),
            (2, b"c0", None, ()),
            (0, b"", "stop", ()),
            (1, b"b1", "stop", ()),
            (2, b"", "length", ()),
            (3, b"", "length", ()),
        ]
        assert one.usages == [Usage(3, 2, 1)]
        assert two.usages == [Usage(3, 4, 1), Usage(3, 4, 1)]


async def test_an_error_is_that_of_one_request() -> None:
    async with stream() as (shared, backend):
        bad, good = ask(shared), ask(shared)
        a, b = await backend.number(), await backend.number()
        backend.refuses(a, "RESOURCE_EXHAUSTED", "queue_full")
        backend.refuses(None)
        backend.refuses(77)
        backend.ends((b, b"x", 0))
        with pytest.raises(BackendError) as refused:
            await bad.take()
        assert (refused.value.status, refused.value.reason) == ("RESOURCE_EXHAUSTED", "queue_full")
        assert await whole(good) == [(0, b"x", "stop", ())]
        assert not shared.retired


async def test_a_backend_that_drains_gets_nothing_new() -> None:
    async with stream() as (shared, backend):
        old, new = ask(shared), ask(shared)
        a, b = await backend.number(), await backend.number()
        backend.refuses(b, "UNAVAILABLE", contract.REASON_DRAINING)
        with pytest.raises(BackendError):
            await new.take()
        assert shared.retired
        backend.ends((a, b"x", 0))
        assert await whole(old) == [(0, b"x", "stop", ())]


@pytest.mark.parametrize("error", [None, BackendError("UNAVAILABLE", "gone"), BackendError("INTERNAL", "odd")])
async def test_losing_the_stream_fails_its_requests(error: BackendError | None) -> None:
    async with stream() as (shared, backend):
        mailboxes = [ask(shared, prompts=2) for _ in range(3)]
        a = await backend.number()
        backend.says((a, b"x", 0))
        backend.breaks(error)
        assert await mailboxes[0].take() == [(0, b"x", None, ())]
        for mailbox in mailboxes:
            with pytest.raises(BackendError) as lost:
                await mailbox.take()
            assert lost.value.status == "UNAVAILABLE"
        assert shared.retired


@pytest.mark.parametrize("index", [-1, 1])
async def test_a_choice_that_nobody_asked_for_fails_its_request(index: int) -> None:
    async with stream() as (shared, backend):
        bad, good = ask(shared), ask(shared)
        a, b = await backend.number(), await backend.number()
        backend.ends((a, b"x", index), (b, b"y", 0))
        with pytest.raises(BackendError, match="sent choice"):
            await bad.take()
        assert await whole(good) == [(0, b"y", "stop", ())]
        assert await backend.cancelled() == a


async def test_a_batch_that_makes_no_sense_ends_the_stream() -> None:
    async with stream() as (shared, backend):
        mailbox = ask(shared)
        backend._answers.put_nowait(ModelStreamInferResponse(infer_response=message((contract.TOKEN, [b"a"]))))
        with pytest.raises(BackendError) as lost:
            await mailbox.take()
        assert lost.value.status == "UNAVAILABLE"


async def test_who_is_gone_is_cancelled_and_gets_nothing() -> None:
    async with stream() as (shared, backend):
        gone, other = ask(shared), ask(shared)
        a, b = await backend.number(), await backend.number()
        gone.close()
        assert await backend.cancelled() == a
        backend.says((a, b"late", 0), (b, b"x", 0))
        backend.ends((a, b"later", 0), (b, b"", 0))
        assert await whole(other) == [(0, b"x", None, ()), (0, b"", "stop", ())]
        gone.close()
        assert backend.sent.empty()


async def test_who_is_gone_before_it_was_sent_is_never_sent() -> None:
    async with stream() as (shared, backend):
        backend.may_send.clear()
        first = ask(shared)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone, last = ask(shared), ask(shared)
        gone.close()
        backend.may_send.set()
        assert [await backend.number(), await backend.number()] == [0, 2]
        first.close()
        last.close()
        assert {await backend.cancelled(), await backend.cancelled()} == {0, 2}


async def test_a_backend_that_stopped() -> None:
    async with stream(timeout=0.05) as (shared, backend):
        mailbox = ask(shared)
        request = await backend.sent.get()
        assert request.parameters[contract.PARAM_TIMEOUT].int64_param == 50_000
        with pytest.raises(BackendError) as late:
            await mailbox.take()
        assert late.value.status == "DEADLINE_EXCEEDED"
        assert await backend.cancelled() == 0


async def test_numbers_begin_again_and_skip_those_in_use() -> None:
    async with stream() as (shared, backend):
        waiting = ask(shared)
        assert await backend.number() == 0
        shared._last_number = contract.INT32_MAX - 1
        others = [ask(shared), ask(shared)]
        assert [await backend.number(), await backend.number()] == [contract.INT32_MAX, 1]
        for mailbox in (waiting, *others):
            mailbox.close()


async def test_who_does_not_take_holds_up_nobody() -> None:
    async with stream() as (shared, backend):
        slow, fast = ask(shared), ask(shared)
        a, b = await backend.number(), await backend.number()
        for _ in range(5000):
            backend.says((a, b"s", 0), (b, b"f", 0))
        backend.ends((a, b"", 0), (b, b"", 0))
        assert b"".join(token for _, token, *_ in await whole(fast)) == b"f" * 5000
        assert b"".join(token for _, token, *_ in await whole(slow)) == b"s" * 5000


@given(
    texts=st.lists(st.lists(st.binary(max_size=3), min_size=1, max_size=6), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
async def test_any_interleaving_gives_the_same_texts(texts: list[list[bytes]], order: Any) -> None:
    async with stream() as (shared, backend):
        mailboxes = [ask(shared) for _ in texts]
        numbers = [await backend.number() for _ in texts]
        left = [list(tokens) for tokens in texts]
        while any(left):
            who = order.sample([i for i, tokens in enumerate(left) if tokens], 1)
            who += [i for i, tokens in enumerate(left) if tokens and i not in who and order.random() < 0.5]
            backend.says(*((numbers[i], left[i].pop(0), 0) for i in who))
        backend.ends(*((number, b"", 0) for number in numbers))
        for mailbox, tokens in zip(mailboxes, texts, strict=True):
            assert b"".join(token for _, token, *_ in await whole(mailbox)) == b"".join(tokens)


# ---- Delivery


async def test_rows_of_several_step_batches_are_delivered_in_order() -> None:
    deliveries: list[Said] = []

    def sink(rows: Said) -> bool:
        deliveries.append(rows)
        return True

    async with stream() as (shared, backend):
        mailbox = ask(shared)
        number = await backend.number()
        mailbox.sink = sink
        reader = asyncio.create_task(whole(mailbox))
        texts = [b"%d," % i for i in range(100)]
        for text in texts:
            backend.says((number, text, 0))
        backend.ends((number, b"", 0))
        rest = await reader
    assert [token for rows in (*deliveries, rest) for _, token, *_ in rows] == [*texts, b""]


async def test_a_step_batch_that_comes_alone_is_delivered_at_once() -> None:
    deliveries: asyncio.Queue[Said] = asyncio.Queue()

    def sink(rows: Said) -> bool:
        deliveries.put_nowait(rows)
        return True

    async with stream() as (shared, backend):
        mailbox = ask(shared)
        number = await backend.number()
        mailbox.sink = sink
        reader = asyncio.create_task(whole(mailbox))
        for text in (b"a", b"b", b"c"):
            backend.says((number, text, 0))
            assert await deliveries.get() == [(0, text, None, ())]
        backend.ends((number, b"", 0))
        assert await reader == [(0, b"", "stop", ())]


# ---- Whole answers


async def test_a_whole_answer() -> None:
    async with stream() as (shared, backend):
        one, two = (asyncio.create_task(shared.answer(ModelInferRequest(id=id), 1)) for id in "ab")
        a, b = await backend.sent.get(), await backend.sent.get()
        assert all(request.parameters[contract.PARAM_WHOLE].bool_param for request in (a, b))
        backend.ends((b.parameters[contract.PARAM_REQUEST].int64_param, b"second", 0))
        backend.ends((a.parameters[contract.PARAM_REQUEST].int64_param, b"first", 0))
        assert text(await one) == "first"
        assert text(await two) == "second"
        assert backend.sent.empty()


async def test_a_whole_answer_with_choices_and_counts() -> None:
    async with stream() as (shared, backend):
        asked = asyncio.create_task(shared.answer(ModelInferRequest(), 2))
        number = await backend.number()
        backend.says((number, b"\xc3", 1))
        backend.ends((number, b"\xa4", 1), reason=b"length")
        assert not asked.done()
        backend.ends((number, b"\xff", 0))
        assert await asked == Answer([Choice(0, "\ufffd", "stop"), Choice(1, "ä", "length")], Usage(3, 4, 1))


@pytest.mark.parametrize("index", [-1, 1])
async def test_a_whole_answer_with_a_choice_that_was_not_requested(index: int) -> None:
    async with stream() as (shared, backend):
        asked = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        number = await backend.number()
        backend.ends((number, b"x", index))
        with pytest.raises(BackendError, match=f"sent choice {index} of 1"):
            await asked
        assert await backend.cancelled() == number


async def test_an_error_instead_of_a_whole_answer() -> None:
    async with stream() as (shared, backend):
        asked = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        backend.refuses(await backend.number(), "RESOURCE_EXHAUSTED", "queue_full")
        with pytest.raises(BackendError) as refused:
            await asked
        assert (refused.value.status, refused.value.reason) == ("RESOURCE_EXHAUSTED", "queue_full")


async def test_losing_the_stream_fails_those_that_wait_for_a_whole_answer() -> None:
    async with stream() as (shared, backend):
        asked = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        await backend.number()
        backend.breaks()
        with pytest.raises(BackendError) as lost:
            await asked
        assert lost.value.status == "UNAVAILABLE"


async def test_a_whole_answer_that_nobody_waits_for_is_cancelled() -> None:
    async with stream() as (shared, backend):
        gone, other = (asyncio.create_task(shared.answer(ModelInferRequest(), 1)) for _ in range(2))
        a, b = await backend.number(), await backend.number()
        gone.cancel()
        assert await backend.cancelled() == a
        backend.ends((a, b"late", 0))
        backend.ends((b, b"x", 0))
        assert text(await other) == "x"


async def test_a_whole_answer_that_comes_too_late() -> None:
    async with stream(timeout=0.05) as (shared, backend):
        asked = asyncio.create_task(shared.answer(ModelInferRequest(), 1))
        request = await backend.sent.get()
        assert request.parameters[contract.PARAM_TIMEOUT].int64_param == 50_000
        with pytest.raises(BackendError) as late:
            await asked
        assert late.value.status == "DEADLINE_EXCEEDED"
        assert await backend.cancelled() == 0


async def test_a_request_that_is_sent_again_asks_for_no_whole_answer() -> None:
    request = ModelInferRequest(id="a")
    async with stream() as (shared, backend):
        asked = asyncio.create_task(shared.answer(request, 1))
        backend.refuses(await backend.number())
        with pytest.raises(BackendError):
            await asked
    assert unnumbered(request) == ModelInferRequest(id="a")


async def test_the_end_of_a_stream_ends_what_sends_on_it() -> None:
    """gRPC's task for it would otherwise be destroyed while it waits, with a line in the log."""
    async with stream() as (shared, backend):
        first = asyncio.ensure_future(anext(shared._outgoing()))
        await asyncio.sleep(0)
        backend.breaks()
        with pytest.raises(StopAsyncIteration):
            await first


# ---- Bundles


async def test_requests_that_wait_are_sent_as_one_message() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        backend.may_send.clear()
        first = ask(shared)
        for _ in range(5):
            await asyncio.sleep(0)  # the stream takes it
        others = [ask(shared) for _ in range(3)]
        backend.may_send.set()
        assert await backend.number() == 0
        bundle = await backend.sent.get()
        assert bundle.parameters[contract.PARAM_BUNDLE].bool_param
        requests = [ModelInferRequest.FromString(part) for part in bundle.raw_input_contents]
        numbers = [request.parameters[contract.PARAM_REQUEST].int64_param for request in requests]
        assert numbers == [1, 2, 3]
        assert backend.sent.empty()
        backend.ends(*((number, b"x", 0) for number in range(4)))
        for mailbox in (first, *others):
            assert await whole(mailbox) == [(0, b"x", "stop", ())]


async def test_a_request_that_was_given_up_is_in_no_bundle() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [ask(shared) for _ in range(3)]
        mailboxes[1].close()
        bundle = await backend.sent.get()
        requests = [ModelInferRequest.FromString(part) for part in bundle.raw_input_contents]
        assert [request.parameters[contract.PARAM_REQUEST].int64_param for request in requests] == [0, 2]
        for mailbox in mailboxes:
            mailbox.close()


@pytest.mark.parametrize(("limit", "sizes"), [(0, [1, 1, 1]), (60, [2, 1])])
async def test_a_bundle_has_a_size(limit: int, sizes: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    one = len(_numbered(0).SerializeToString())
    monkeypatch.setattr(shared_stream, "MAX_BUNDLE_BYTES", limit and 2 * one + 1)
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [ask(shared) for _ in range(3)]
        found = []
        for _ in sizes:
            sent = await backend.sent.get()
            found.append(len(sent.raw_input_contents) or 1)
        assert found == sizes
        for mailbox in mailboxes:
            mailbox.close()


async def test_a_bundle_has_a_limit_of_requests() -> None:
    async with stream(takes_bundles=True) as (shared, backend):
        mailboxes = [ask(shared) for _ in range(contract.MAX_BUNDLE + 1)]
        assert len((await backend.sent.get()).raw_input_contents) == contract.MAX_BUNDLE
        assert await backend.number() == contract.MAX_BUNDLE
        for mailbox in mailboxes:
            mailbox.close()


async def test_a_backend_that_takes_no_bundles_gets_each_request_alone() -> None:
    async with stream() as (shared, backend):
        mailboxes = [ask(shared) for _ in range(3)]
        assert [await backend.number() for _ in mailboxes] == [0, 1, 2]
        for mailbox in mailboxes:
            mailbox.close()


def _numbered(number: int) -> ModelInferRequest:
    request = ModelInferRequest(id="0")
    request.parameters[contract.PARAM_REQUEST].int64_param = number
    return request
