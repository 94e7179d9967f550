"""Step batches of the worker: what a client of the stream receives, and that nothing is left behind."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from grpc import aio

from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelStreamInferResponse, ServerMetadataRequest
from tests.anyserve_worker.fakes import WAIT_TIMEOUT, FakeRunner, Gate
from tests.wire.worker import OPTIONS, Worker, stub, worker

SPECS = {spec.name: spec for spec in contract.INPUTS}


def request(
    prompt: str, number: int | None = None, *, model: str = "tiny", id: str = "", **inputs: Any
) -> ModelInferRequest:
    message = ModelInferRequest(model_name=model, id=id)
    for name, value in {"prompt": prompt.encode(), **inputs}.items():
        tensors.add_input(message, SPECS[name], [value])
    if number is not None:
        message.parameters[contract.PARAM_REQUEST].int64_param = number
    return message


def cancel(number: int) -> ModelInferRequest:
    message = ModelInferRequest()
    message.parameters[contract.PARAM_CANCEL].int64_param = number
    return message


def columns(response: ModelStreamInferResponse) -> dict[str, list[Any]]:
    outputs = tensors.read_outputs(response.infer_response)
    return {name: list(tensor.elements) for name, tensor in outputs.items()}


class Client:
    """One stream, and its responses, merged by request and choice."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.texts: dict[tuple[int, int], str] = defaultdict(str)
        self.ends: dict[tuple[int, int], tuple[str, int, int, int]] = {}
        """(finish_reason, prompt, cached, completion tokens)"""
        self.errors: list[tuple[int | None, str]] = []
        self.n_batches = 0
        self.n_rows: Counter[tuple[int, int]] = Counter()

    async def send(self, *messages: ModelInferRequest) -> None:
        for message in messages:
            await self.call.write(message)

    async def read(self) -> bool:
        """Reads one response; returns False at the end of the stream."""
        async with asyncio.timeout(WAIT_TIMEOUT):
            response = await self.call.read()
        if response is aio.EOF:
            return False
        parameters = response.infer_response.parameters
        if response.error_message:
            number = parameters[contract.PARAM_REQUEST].int64_param if contract.PARAM_REQUEST in parameters else None
            self.errors.append((number, parameters[contract.ERROR_STATUS].string_param))
            return True
        self._take(columns(response))
        return True

    def _take(self, batch: dict[str, list[Any]]) -> None:
        self.n_batches += 1
        keys = list(zip(batch["request"], batch["index"], strict=True))
        assert len(set(keys)) == len(keys), "a choice is in a batch at most once"
        begins = not set(keys) <= self.n_rows.keys()
        self.n_rows.update(keys)
        for key, token in zip(keys, batch["token"], strict=True):
            assert key not in self.ends, "nothing follows the end"
            self.texts[key] += token.decode()
        if "finish_reason" not in batch:
            assert list(batch) == ["request", "token", "index", *(("prompt_tokens", "cached_tokens") if begins else ())]
            return
        unmarked = [spec.name for spec in contract.STEP_BATCH if spec is not contract.ROW_MARKED_TOKENS]
        assert list(batch) == unmarked
        counts = zip(batch["prompt_tokens"], batch["cached_tokens"], batch["completion_tokens"], strict=True)
        for key, reason, count in zip(keys, batch["finish_reason"], counts, strict=True):
            if reason != b"null":
                self.ends[key] = (reason.decode(), *count)

    async def until_ended(self, *keys: tuple[int, int]) -> None:
        while not set(keys) <= set(self.ends):
            assert await self.read(), "the stream ended"


@asynccontextmanager
async def client(port: int) -> AsyncIterator[Client]:
    async with stub(port) as service:
        open_stream: Any = service.ModelStreamInfer
        call = open_stream()
        try:
            yield Client(call)
        finally:
            call.cancel()


async def wait_for_n_requests(worker: Worker, n_requests: int) -> None:
    async with asyncio.timeout(WAIT_TIMEOUT):
        while worker.n_requests != n_requests:  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_the_extension_is_listed() -> None:
    async with worker() as running, stub(running.port) as service:
        call: Any = service.ServerMetadata(ServerMetadataRequest())
        metadata = await call
    assert contract.EXTENSION_STEP_BATCHES in metadata.extensions


async def test_many_requests_share_the_messages() -> None:
    prompts = {number: f"{number} prompt" for number in range(8)}
    gate = Gate()
    runner = FakeRunner({prompt: f"answer {prompt}".encode() for prompt in prompts.values()}, gate=gate)
    async with worker({"tiny": runner}) as running, client(running.port) as stream:
        await stream.send(*(request(prompt, number) for number, prompt in prompts.items()))
        await wait_for_n_requests(running, 8)
        gate.open()
        await stream.until_ended(*((number, 0) for number in prompts))
    assert stream.texts == {(number, 0): f"answer {prompt}" for number, prompt in prompts.items()}
    assert stream.ends == {(number, 0): ("stop", 8, 0, 16) for number in prompts}
    assert stream.n_batches <= len(runner.steps)
    assert stream.n_batches < 8 * 16


async def test_the_choices_of_a_request_are_kept_apart() -> None:
    async with worker({"tiny": FakeRunner({"q": b"abc"})}) as running, client(running.port) as stream:
        await stream.send(request("q", 7, n=3, max_tokens=2))
        await stream.until_ended((7, 0), (7, 1), (7, 2))
    assert stream.texts == {(7, i): "ab" for i in range(3)}
    assert {end[0] for end in stream.ends.values()} == {"length"}


async def test_models_share_a_stream_and_so_do_requests_without_a_number() -> None:
    runners = {"tiny": FakeRunner({"q": b"small"}), "other": FakeRunner({"q": b"large"})}
    async with worker(runners) as running, client(running.port) as stream:
        await stream.send(request("q", 0), request("q", 1, model="other"))
        await stream.until_ended((0, 0), (1, 0))
        assert stream.texts == {(0, 0): "small", (1, 0): "large"}
        await stream.send(request("q", id="alone"))
        text, final = b"", False
        while not final:
            response = (await stream.call.read()).infer_response
            assert response.id == "alone"
            text += tensors.read_outputs(response)["token"].elements[0]
            final = response.parameters[contract.PARAM_FINAL].bool_param
        assert text == b"small"


async def test_an_error_has_the_requests_number_and_the_stream_continues() -> None:
    async with worker() as running, client(running.port) as stream:
        await stream.send(
            request("q", 1, max_tokens=-3), request("q", 2, model="nobody"), request("q", 3, max_tokens=1)
        )
        await stream.until_ended((3, 0))
        while len(stream.errors) < 2:
            await stream.read()
        assert sorted(stream.errors, key=str) == [(1, "INVALID_ARGUMENT"), (2, "NOT_FOUND")]


def _numbered(parameter: str, **value: Any) -> ModelInferRequest:
    message = request("q")
    for kind, number in value.items():
        setattr(message.parameters[parameter], kind, number)
    return message


@pytest.mark.parametrize("parameter", [contract.PARAM_REQUEST, contract.PARAM_CANCEL])
@pytest.mark.parametrize(
    "value", [{"int64_param": -1}, {"int64_param": 2**31}, {"string_param": "1"}, {"bool_param": True}, {}]
)
async def test_an_invalid_number_is_an_error(parameter: str, value: dict[str, Any]) -> None:
    message = _numbered(parameter, **value)
    if not value:
        message.parameters[parameter].SetInParent()
    async with worker() as running, client(running.port) as stream:
        await stream.send(message, request("q", 1))
        await stream.until_ended((1, 0))
        while not stream.errors:
            await stream.read()
    assert stream.errors == [(None, "INVALID_ARGUMENT")]


async def test_a_number_that_is_in_use_is_an_error() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as running, client(running.port) as stream:
        await stream.send(request("q", 1), request("other", 1))
        await stream.read()
        assert stream.errors == [(None, "INVALID_ARGUMENT")]
        gate.open()
        await stream.until_ended((1, 0))
        assert stream.texts == {(1, 0): "abc"}


async def test_an_error_is_small_however_large_the_request_was() -> None:
    """Many errors can wait to be read."""
    long = "x" * 1_000_000
    async with worker() as running, client(running.port) as stream:
        await stream.send(request("q", 1, model=long, id=long), request("q", model=long, id=long))
        for _ in range(2):
            response = await stream.call.read()
            assert response.ByteSize() < 10_000
            assert response.infer_response.parameters[contract.ERROR_STATUS].string_param == "INVALID_ARGUMENT"


async def test_options_that_step_batches_lack_are_refused() -> None:
    named, final = request("q", 1), request("q", 2)
    named.outputs.add(name="token")
    final.parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
    async with worker() as running, client(running.port) as stream:
        await stream.send(named, final)
        await stream.read()
        await stream.read()
    assert stream.errors == [(1, "INVALID_ARGUMENT"), (2, "INVALID_ARGUMENT")]


# ---- Whole responses


def whole_request(prompt: str, number: int, **inputs: Any) -> ModelInferRequest:
    message = request(prompt, number, **inputs)
    message.parameters[contract.PARAM_WHOLE].bool_param = True
    return message


async def test_a_whole_response_is_that_of_a_call() -> None:
    async with worker({"tiny": FakeRunner({"q": b"abc"})}) as running, stub(running.port) as service:
        lookup: Any = service.ServerMetadata(ServerMetadataRequest())
        assert contract.EXTENSION_WHOLE_ANSWERS in (await lookup).extensions
        variants: list[dict[str, Any]] = [{}, {"n": 3}, {"max_tokens": 2}, {"mark_end": b"b"}]
        for inputs in variants:
            call: Any = service.ModelInfer(request("q", id="x", **inputs))
            expected = {name: list(t.elements) for name, t in tensors.read_outputs(await call).items()}
            async with client(running.port) as stream:
                await stream.send(whole_request("q", 5, id="x", **inputs))
                batch = columns(await stream.call.read())
            n = inputs.get("n", 1)
            assert batch["request"] == [5] * n
            assert batch["index"] == list(range(n))
            assert batch["token"] == expected["text"]
            for name in ("finish_reason", "completion_tokens", "marked_tokens"):
                assert batch.get(name) == expected.get(name)
            for name in ("prompt_tokens", "cached_tokens"):
                assert batch[name] == expected[name] * n


async def test_whole_responses_and_step_batches_share_a_stream() -> None:
    gate = Gate()
    async with (
        worker({"tiny": FakeRunner({"q": b"abc", "w": b"de"}, gate=gate)}) as running,
        client(running.port) as stream,
    ):
        await stream.send(request("q", 1), whole_request("w", 2), whole_request("x" * 200, 3), request("q", 4))
        await wait_for_n_requests(running, 3)
        gate.open()
        await stream.until_ended((1, 0), (4, 0), (2, 0))
    assert stream.texts == {(1, 0): "abc", (4, 0): "abc", (2, 0): "de"}
    assert stream.n_rows[2, 0] == 1
    assert stream.errors == [(3, "INVALID_ARGUMENT")]


@pytest.mark.parametrize("build", [request, whole_request])
async def test_a_cancelled_request_is_gone_and_the_others_are_not(
    build: Callable[[str, int], ModelInferRequest],
) -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as running, client(running.port) as stream:
        await stream.send(build("q", 1), build("q", 2), cancel(3))
        await wait_for_n_requests(running, 2)
        await stream.send(cancel(1))
        await wait_for_n_requests(running, 1)
        gate.open()
        await stream.until_ended((2, 0))
        assert stream.texts == {(2, 0): "abc"}
        await stream.send(cancel(2), build("q", 1))  # finished, and its number is free
        await stream.until_ended((1, 0))


async def test_a_whole_answer_that_is_too_large_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyserve_worker.service.stream.MAX_WHOLE_BYTES", 100)
    async with worker({"tiny": FakeRunner({"q": b"a" * 300, "w": b"b"})}) as running, client(running.port) as stream:
        await stream.send(whole_request("q", 1, n=3, max_tokens=50), whole_request("w", 2))
        await stream.until_ended((2, 0))
        while not stream.errors:
            await stream.read()
    assert stream.errors == [(1, "RESOURCE_EXHAUSTED")]
    assert stream.texts == {(2, 0): "b"}


async def test_rows_of_many_bytes_come_in_several_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("anyserve_worker.service.outbox.MAX_BATCH_BYTES", 120)
    async with worker({"tiny": FakeRunner({"q": b"a" * 300})}) as running, client(running.port) as stream:
        await stream.send(whole_request("q", 1, n=5, max_tokens=50))
        await stream.until_ended(*((1, index) for index in range(5)))
    assert stream.n_batches == 3
    assert stream.texts == {(1, index): "a" * 50 for index in range(5)}


# ---- Bundles


def bundle(*requests: ModelInferRequest) -> ModelInferRequest:
    message = ModelInferRequest(raw_input_contents=[request.SerializeToString() for request in requests])
    message.parameters[contract.PARAM_BUNDLE].bool_param = True
    return message


async def test_the_requests_of_a_bundle_are_answered_as_if_each_had_been_sent() -> None:
    async with (
        worker({"tiny": FakeRunner({"q": b"abc", "w": b"de"})}) as running,
        client(running.port) as stream,
        stub(running.port) as service,
    ):
        lookup: Any = service.ServerMetadata(ServerMetadataRequest())
        assert contract.EXTENSION_BUNDLES in (await lookup).extensions
        await stream.send(
            bundle(request("q", 1), whole_request("w", 2), request("x" * 200, 3)), bundle(), request("q", 4)
        )
        await stream.until_ended((1, 0), (2, 0), (4, 0))
    assert stream.texts == {(1, 0): "abc", (2, 0): "de", (4, 0): "abc"}
    assert stream.errors == [(3, "INVALID_ARGUMENT")]


async def test_a_bundle_may_cancel() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as running, client(running.port) as stream:
        await stream.send(bundle(request("q", 1), request("q", 2), cancel(1)))
        await wait_for_n_requests(running, 1)
        gate.open()
        await stream.until_ended((2, 0))
    assert stream.texts == {(2, 0): "abc"}


async def test_a_bundle_in_a_bundle_and_one_with_too_many_requests_are_refused() -> None:
    async with worker({"tiny": FakeRunner({"q": b"abc"})}) as running, client(running.port) as stream:
        await stream.send(
            bundle(bundle(request("q", 1))), bundle(*[request("q", 1)] * (contract.MAX_BUNDLE + 1)), request("q", 1)
        )
        await stream.until_ended((1, 0))
        while len(stream.errors) < 2:
            await stream.read()
    assert stream.errors == [(None, "INVALID_ARGUMENT")] * 2


async def test_a_bundle_that_is_broken_ends_the_stream_as_any_broken_message() -> None:
    async with worker({"tiny": FakeRunner({"q": b"abc"})}) as running, client(running.port) as stream:
        broken = ModelInferRequest(raw_input_contents=[b"\xff"])
        broken.parameters[contract.PARAM_BUNDLE].bool_param = True
        await stream.send(broken)
        with pytest.raises(aio.AioRpcError, match="cannot be parsed"):
            await stream.read()


async def test_a_timeout_applies_to_one_request() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as running, client(running.port) as stream:
        expired = request("late", 1)
        expired.parameters[contract.PARAM_TIMEOUT].int64_param = 1
        await stream.send(expired, request("q", 2))
        gate.open()
        await stream.until_ended((2, 0))
        while not stream.errors:
            await stream.read()
    assert stream.errors == [(1, "DEADLINE_EXCEEDED")]


@pytest.mark.parametrize("numbered", [True, False])
async def test_the_end_of_a_stream_ends_its_requests(numbered: bool) -> None:
    gate = Gate()
    async with (
        worker({"tiny": FakeRunner(gate=gate)}) as running,
        client(running.port) as stream,
        client(running.port) as other,
    ):
        await stream.send(*(request("q", i if numbered else None) for i in range(5)))
        await other.send(request("q", 1))
        await wait_for_n_requests(running, 6)
        stream.call.cancel()
        await wait_for_n_requests(running, 1)
        gate.open()
        await other.until_ended((1, 0))
    assert other.texts == {(1, 0): "ok"}


async def test_a_client_that_has_sent_its_last_request_gets_all_responses() -> None:
    async with worker() as running, client(running.port) as stream:
        await stream.send(*(request("q", i) for i in range(5)))
        await stream.call.done_writing()
        while await stream.read():
            pass
    assert stream.texts == {(i, 0): "ok" for i in range(5)}


# ---- Many requests


async def test_a_cancellation_does_not_wait_behind_running_requests() -> None:
    gate = Gate()
    options = replace(OPTIONS, parallel=8, max_queue=592)
    async with worker({"tiny": FakeRunner(gate=gate)}, options) as running, client(running.port) as stream:
        await stream.send(*(request("q", i) for i in range(601)))
        await stream.read()
        assert stream.errors == [(600, "RESOURCE_EXHAUSTED")]
        await stream.send(cancel(5))
        await wait_for_n_requests(running, 599)


@pytest.mark.slow
@pytest.mark.parametrize("parameter", [contract.PARAM_REQUEST, contract.PARAM_CANCEL, None])
async def test_the_worker_reads_no_more_from_a_client_that_does_not_read(parameter: str | None) -> None:
    """Responses wait to be read, but not without limit."""

    def messages() -> Iterable[ModelInferRequest]:
        for number in range(20_000):
            message = request("x", model="nobody" * 200, id="x" * 1000)
            if parameter:
                message.parameters[parameter].int64_param = number if parameter == contract.PARAM_REQUEST else -1
            yield message

    n_sent = 0
    async with worker() as running, client(running.port) as stream:
        try:
            for message in messages():
                async with asyncio.timeout(1):
                    await stream.send(message)
                n_sent += 1
        except TimeoutError:
            pass
        assert n_sent < 15_000


# ---- Draining


async def test_a_draining_worker_finishes_refuses_and_ends_the_stream() -> None:
    gate = Gate()
    async with worker({"tiny": FakeRunner({"q": b"abc"}, gate=gate)}) as running, client(running.port) as stream:
        await stream.send(request("q", 1), request("q", 2))
        await wait_for_n_requests(running, 2)
        running.servicer.drain()
        await stream.send(request("q", 3))
        await stream.read()
        assert stream.errors == [(3, "UNAVAILABLE")]
        await stream.send(cancel(2))
        await wait_for_n_requests(running, 1)
        gate.open()
        await stream.until_ended((1, 0))
        assert not await stream.read()
        async with asyncio.timeout(WAIT_TIMEOUT):
            await running.servicer.wait_until_drained()


async def test_a_stream_without_requests_does_not_delay_a_drain() -> None:
    async with worker() as running, client(running.port) as stream:
        await stream.send(request("q", 1))
        await stream.until_ended((1, 0))
        running.servicer.drain()
        async with asyncio.timeout(WAIT_TIMEOUT):
            await running.servicer.wait_until_drained()
        assert not await stream.read()
