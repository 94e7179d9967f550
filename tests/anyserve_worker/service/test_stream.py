"""Concurrent requests on a stream: order, errors, cancellation, drain and limits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest
from google.protobuf.message import DecodeError

from anyserve_worker.core.errors import InvalidRequest, WorkerError
from anyserve_worker.service import stream as stream_module
from anyserve_worker.service.served_model import ServedModel
from anyserve_worker.service.stream import Stream
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse
from tests.anyserve_worker.fakes import WAIT_TIMEOUT
from tests.anyserve_worker.service.fakes import (
    FakeEngine,
    Refusal,
    Requests,
    delta,
    outputs,
    request,
    run_pending_tasks,
    served,
)

Responses = AsyncGenerator[ModelStreamInferResponse, None]


class Call:
    """A stream on a fake engine, with access to its requests and responses."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.requests = Requests()
        self.draining = asyncio.Event()
        self.refusal: WorkerError | None = None
        """Error when a request is admitted; None to admit it."""
        self.responses: Responses = Stream(self._admit, self.draining).responses(aiter(self.requests))

    def _admit(self, request: ModelInferRequest) -> ServedModel:
        if self.refusal:
            raise self.refusal
        return served(self.engine)

    async def next(self) -> ModelStreamInferResponse:
        async with asyncio.timeout(WAIT_TIMEOUT):
            return await anext(self.responses)

    async def rest(self) -> list[ModelStreamInferResponse]:
        async with asyncio.timeout(WAIT_TIMEOUT):
            return [response async for response in self.responses]

    async def rows(self) -> list[tuple[int, bytes]]:
        """Returns (number, text) of the rows of the next message, which has to be a step batch."""
        batch = outputs((await self.next()).infer_response)
        return list(zip(batch["request"], batch["token"], strict=True))


@pytest.fixture
async def call() -> AsyncIterator[Call]:
    call = Call()
    async with aclosing(call.responses):
        yield call


def text(response: ModelStreamInferResponse) -> tuple[str, bytes, bool]:
    """Returns (id, text, whether it is the last) of a response to a request without a number."""
    answer = response.infer_response
    (token,) = outputs(answer).get("token", [b""])
    return answer.id, token, answer.parameters[contract.PARAM_FINAL].bool_param


# ---- Order


async def test_deltas_of_all_requests_since_the_last_read_are_one_message_in_order(call: Call) -> None:
    call.requests.send(request(number=1), request(number=2))
    reading = asyncio.ensure_future(call.rows())
    first, second = await call.engine.running.get(), await call.engine.running.get()
    second.put(delta("b"))
    first.put(delta("a"))
    first.put(delta("c"))
    assert await reading == [(2, b"b"), (1, b"ac")]


async def test_responses_without_a_number_are_in_order_and_the_last_is_marked(call: Call) -> None:
    call.requests.send(request("x"))
    reading = asyncio.ensure_future(call.next())
    generation = await call.engine.running.get()
    generation.put(delta("a"))
    assert text(await reading) == ("x", b"a", False)
    generation.put(delta("b"))
    generation.put(delta("", "stop"))
    call.requests.end()
    assert [text(response) for response in await call.rest()] == [("x", b"b", True)]


async def test_a_stream_continues_until_the_last_answer_after_its_client_has_closed_it(call: Call) -> None:
    call.requests.send(request(number=1))
    call.requests.end()
    reading = asyncio.ensure_future(call.rows())
    generation = await call.engine.running.get()
    await run_pending_tasks()
    generation.put(delta("a", "stop"))
    assert await reading == [(1, b"a")]
    assert await call.rest() == []


# ---- Errors


async def test_an_error_has_the_number_of_its_request_and_others_continue(call: Call) -> None:
    call.requests.send(request("x", number=1), request("y", number=2))
    reading = asyncio.ensure_future(call.next())
    first, second = await call.engine.running.get(), await call.engine.running.get()
    first.put(delta("a"))
    first.put(Refusal("no more"))
    assert outputs((await reading).infer_response)["token"] == [b"a"]
    error = await call.next()
    assert (error.error_message, error.infer_response.id) == ("no more", "x")
    assert error.infer_response.parameters[contract.PARAM_REQUEST].int64_param == 1
    assert error.infer_response.parameters[contract.ERROR_STATUS].string_param == "RESOURCE_EXHAUSTED"
    assert error.infer_response.parameters[contract.ERROR_REASON].string_param == "too_much"
    second.put(delta("b", "stop"))
    assert await call.rows() == [(2, b"b")]


@pytest.mark.parametrize("number", [None, 1])
async def test_a_rejected_request_gets_the_reason(call: Call, number: int | None) -> None:
    call.refusal = Refusal("full")
    call.requests.send(request("x", number=number))
    call.requests.end()
    (error,) = await call.rest()
    assert (error.error_message, error.infer_response.id) == ("full", "x")
    assert error.infer_response.parameters[contract.PARAM_FINAL].bool_param == (number is None)


@pytest.mark.parametrize("number", [None, 1])
async def test_an_unexpected_error_is_an_internal_error_without_its_message(call: Call, number: int | None) -> None:
    call.engine.refusal = ValueError("secret")
    call.requests.send(request(number=number))
    call.requests.end()
    (error,) = await call.rest()
    assert error.error_message == "internal error"


async def test_an_error_has_only_the_beginning_of_a_long_id(call: Call) -> None:
    call.refusal = Refusal("no")
    call.requests.send(request("x" * 5000))
    assert len((await call.next()).infer_response.id) == 1000


async def test_a_number_that_is_in_use_is_rejected_and_its_request_continues(call: Call) -> None:
    call.requests.send(request(number=1), request("again", number=1))
    error = await call.next()
    assert "1 is the number of a running request" in error.error_message
    assert error.infer_response.id == "again"
    (await call.engine.running.get()).put(delta("a", "stop"))
    assert await call.rows() == [(1, b"a")]


async def test_a_number_can_be_reused_after_the_end_of_its_request(call: Call) -> None:
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rows())
    (await call.engine.running.get()).put(delta("a", "stop"))
    assert await reading == [(1, b"a")]
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rows())
    (await call.engine.running.get()).put(delta("b", "stop"))
    assert await reading == [(1, b"b")]


async def test_a_message_that_cannot_be_parsed_ends_the_stream_and_cancels_all_requests(call: Call) -> None:
    call.requests.send(request(number=1), request())
    reading = asyncio.ensure_future(call.next())
    running = {await call.engine.running.get(), await call.engine.running.get()}
    call.requests.fail(DecodeError())
    with pytest.raises(InvalidRequest, match="cannot be parsed"):
        await reading
    assert {await call.engine.cancelled.get(), await call.engine.cancelled.get()} == running


async def test_any_other_read_error_ends_the_stream_with_an_internal_error(call: Call) -> None:
    call.requests.fail(ValueError("secret"))
    with pytest.raises(WorkerError, match=r"^internal error$"):
        await call.next()


# ---- Cancellation


async def test_a_cancelled_request_gets_no_response(call: Call) -> None:
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rest())
    generation = await call.engine.running.get()
    call.requests.send(request(cancel=1))
    assert await call.engine.cancelled.get() is generation
    generation.put(delta("late"))
    call.requests.end()
    assert await reading == []


async def test_a_request_can_be_cancelled_before_the_engine_has_admitted_it(call: Call) -> None:
    call.engine.admits.clear()
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rest())
    await call.engine.submitted.get()
    call.requests.send(request(cancel=1))
    call.requests.end()
    assert await reading == []
    assert call.engine.running.empty()


async def test_cancelling_an_unknown_number_has_no_effect(call: Call) -> None:
    call.requests.send(request(cancel=7), request(number=1))
    reading = asyncio.ensure_future(call.rows())
    (await call.engine.running.get()).put(delta("a", "stop"))
    assert await reading == [(1, b"a")]


async def test_all_requests_of_a_disconnected_client_are_cancelled(call: Call) -> None:
    call.requests.send(request(number=1), request())
    reading = asyncio.ensure_future(call.next())
    running = {await call.engine.running.get(), await call.engine.running.get()}
    reading.cancel()
    await asyncio.wait([reading])
    assert {await call.engine.cancelled.get(), await call.engine.cancelled.get()} == running


# ---- Drain


async def test_a_stream_of_a_draining_worker_ends_with_its_last_answer(call: Call) -> None:
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rows())
    generation = await call.engine.running.get()
    call.draining.set()
    generation.put(delta("a", "stop"))
    assert await reading == [(1, b"a")]
    assert await call.rest() == []


async def test_a_draining_worker_still_reads_cancellations(call: Call) -> None:
    call.requests.send(request(number=1))
    reading = asyncio.ensure_future(call.rest())
    await call.engine.running.get()
    call.draining.set()
    await run_pending_tasks()
    call.requests.send(request(cancel=1))
    await call.engine.cancelled.get()
    assert await reading == []


async def test_an_idle_stream_of_a_draining_worker_ends_at_once(call: Call) -> None:
    call.draining.set()
    assert await call.rest() == []


# ---- Limits


async def test_no_request_is_read_while_too_many_answers_are_unread(
    call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "MAX_WAITING", 3)
    call.refusal = Refusal("full")
    call.requests.send(*(request(f"{i}", number=i) for i in range(10)))
    call.requests.end()
    await call.next()
    await run_pending_tasks()
    assert call.requests.n_read == 3
    assert len(await call.rest()) == 9


async def test_running_requests_do_not_count_as_unread_answers(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "MAX_WAITING", 2)
    call.requests.send(*(request(number=i) for i in range(5)))
    reading = asyncio.ensure_future(call.next())
    for _ in range(5):
        await call.engine.running.get()
    reading.cancel()


async def test_step_batches_do_not_support_log_probabilities(call: Call) -> None:
    with_logprobs = request(number=1)
    with_logprobs.inputs.add(name=contract.LOGPROBS.name, datatype="INT32", shape=[1]).contents.int_contents.append(1)
    call.requests.send(with_logprobs)
    error = await call.next()
    assert error.infer_response.parameters[contract.ERROR_TENSOR].string_param == contract.LOGPROBS.name
