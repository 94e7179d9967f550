"""Calls to one backend, with a fake of gRPC's channel."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest
from grpc import aio

from openai_server.backends import calls as calls_module
from openai_server.backends.calls import MAX_SHARED_BYTES, NO_TIMEOUT, Backend
from openai_server.backends.dialects.description import ServerDescription
from openai_server.backends.failures import failure_of
from openai_server.backends.mailbox import Mailbox
from openai_server.core import current_request
from openai_server.core.answer import Answer, Choice
from openai_server.core.errors import BackendError
from openai_server.core.request_context import RequestContext
from openai_server.core.rows import Row
from openai_server.core.timings import Progress, Timings
from openai_server.core.usage import PromptUsage, Usage
from protos import contract, tensors
from protos.grpc_predict_v2_pb2 import (
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataResponse,
    ModelReadyResponse,
    ModelStreamInferResponse,
    RepositoryIndexResponse,
    ServerMetadataResponse,
    ServerReadyResponse,
)
from tests.openai_server.backends.fake_channel import IDLE, READY, FakeChannel, FakeDialer, Stream, rpc_error
from tests.openai_server.backends.fakes import call_of
from tests.wire.fake_worker import first_token, last_token, message, token

BATCHES, WHOLE, PINGS = contract.EXTENSION_STEP_BATCHES, contract.EXTENSION_WHOLE_ANSWERS, contract.EXTENSION_PINGS


def backend_on(*channels: FakeChannel, timeout: float | None = 9) -> Backend:
    return Backend("a:1", timeout=timeout, lookup_timeout=3, dialer=FakeDialer(*channels))


async def learned(*extensions: str) -> tuple[Backend, FakeChannel]:
    channel = FakeChannel(*extensions)
    backend = backend_on(channel)
    await backend.server()
    channel.calls.clear()
    return backend, channel


def request(**parameters: str) -> ModelInferRequest:
    message = ModelInferRequest(model_name="m")
    for name, value in parameters.items():
        message.parameters[name].string_param = value
    return message


@pytest.fixture
def context() -> Iterator[RequestContext]:
    context = RequestContext(id="id", caller="caller")
    before = current_request.context.set(context)
    yield context
    current_request.context.reset(before)


# ---- Failures of gRPC as BackendErrors


@pytest.mark.parametrize(
    ("code", "message", "status"),
    [
        (grpc.StatusCode.INTERNAL, "Received RST_STREAM with error code 2", "UNAVAILABLE"),
        (
            grpc.StatusCode.INTERNAL,
            "Stream removed (RST_STREAM (Received RST_STREAM with error code 2))",
            "UNAVAILABLE",
        ),
        (grpc.StatusCode.INTERNAL, "the model failed", "INTERNAL"),
        (grpc.StatusCode.CANCELLED, "Received RST_STREAM with error code 8", "CANCELLED"),
    ],
)
def test_a_dropped_call_without_a_status_is_unavailable(code: grpc.StatusCode, message: str, status: str) -> None:
    error = aio.AioRpcError(code, aio.Metadata(), aio.Metadata((contract.ERROR_TENSOR, "prompt")), details=message)
    failure = failure_of(error)
    assert isinstance(failure, BackendError)
    assert (failure.status, failure.message, failure.tensor) == (status, message, "prompt")


@pytest.mark.parametrize("error", [aio.UsageError("closed"), asyncio.CancelledError()])
async def test_a_closed_channel_is_an_error_and_not_a_cancellation(error: BaseException) -> None:
    backend, channel = await learned()
    channel.answers["ModelInfer"] = error
    with pytest.raises(BackendError, match="connection to the backend was closed") as failed:
        await backend.infer(request())
    assert failed.value.status == "UNAVAILABLE"
    assert backend.n_running == 0


async def test_a_cancelled_task_stays_cancelled() -> None:
    backend, channel = await learned()
    channel.may_answer.clear()
    task = asyncio.create_task(backend.infer(request()))
    await asyncio.sleep(0)
    assert backend.n_running == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert backend.n_running == 0


async def test_a_lookup_that_times_out_is_unavailable() -> None:
    backend, channel = await learned()
    channel.answers["RepositoryIndex"] = channel.answers["ModelInfer"] = rpc_error("DEADLINE_EXCEEDED")
    for call, status in ((backend.index(), "UNAVAILABLE"), (backend.infer(request()), "DEADLINE_EXCEEDED")):
        with pytest.raises(BackendError) as failed:
            await call
        assert failed.value.status == status
    assert [options["timeout"] for _, _, options in channel.calls] == [3, 9]


# ---- Lookups


async def test_the_index_has_the_states_of_all_models() -> None:
    backend, channel = await learned()
    states = [("x", "READY"), ("y", "UNAVAILABLE"), ("z", ""), ("x", "State.READY")]
    models = [RepositoryIndexResponse.ModelIndex(name=name, state=state) for name, state in states]
    channel.answers["RepositoryIndex"] = RepositoryIndexResponse(models=models)
    entries = await backend.index()
    assert [(entry.name, entry.is_ready) for entry in entries] == [("x", True), ("y", False), ("z", True), ("x", True)]


async def test_inputs_and_parameters_of_a_model_are_read() -> None:
    backend, channel = await learned()
    inputs = [ModelMetadataResponse.TensorMetadata(name=name) for name in ("prompt", "seed")]
    channel.answers["ModelMetadata"] = ModelMetadataResponse(inputs=inputs)
    config = ModelConfigResponse()
    for name in ("context_length", "something else"):
        config.config.parameters[name].string_value = "9"
    channel.answers["ModelConfig"] = config
    description, parameters = await backend.describe("m", "2")
    assert description.input_names == {"prompt", "seed"}
    assert (parameters, description.settings) == ({"context_length": "9"}, {"something else": "9"})
    assert {(request.name, request.version) for _, request, _ in channel.calls} == {("m", "2")}


@pytest.mark.parametrize(
    ("extensions", "server", "model", "is_ready"),
    [
        ((PINGS,), True, True, True),
        ((PINGS,), True, False, False),
        ((PINGS,), False, True, False),
        ((), False, True, True),
        ((), True, False, False),
    ],
)
async def test_a_model_needs_a_ready_server_only_if_that_is_a_worker(
    extensions: tuple[str, ...], server: bool, model: bool, is_ready: bool
) -> None:
    """Another server may be unready because of another model."""
    backend, channel = await learned(*extensions)
    channel.answers["ServerReady"] = ServerReadyResponse(ready=server)
    channel.answers["ModelReady"] = ModelReadyResponse(ready=model)
    assert await backend.ready("m") is is_ready


# ---- Extensions


async def test_extensions_are_looked_up_once() -> None:
    channel = FakeChannel(BATCHES)
    backend = backend_on(channel)
    await asyncio.gather(backend.server(), backend.server())
    await backend.server()
    assert len(channel.methods("ServerMetadata")) == 1
    assert (await backend.server()).extensions == {BATCHES}


async def test_a_server_without_metadata_has_no_extensions() -> None:
    channel = FakeChannel()
    channel.answers["ServerMetadata"] = rpc_error("UNIMPLEMENTED")
    backend = backend_on(channel)
    await backend.server()
    assert await backend.server() == ServerDescription()


async def test_a_failed_lookup_of_extensions_is_repeated() -> None:
    channel = FakeChannel()
    channel.answers["ServerMetadata"] = rpc_error("UNAVAILABLE")
    backend = backend_on(channel)
    with pytest.raises(BackendError):
        await backend.server()
    channel.answers["ServerMetadata"] = ServerMetadataResponse(extensions=[BATCHES])
    await backend.server()
    assert (await backend.server()).extensions == {BATCHES}


# ---- Whole answers


async def test_the_caller_is_not_sent_to_servers_of_others(context: RequestContext) -> None:
    backend, channel = await learned()
    await answer_of(backend, request())
    [(_, sent, _)] = channel.calls
    assert contract.PARAM_CALLER not in sent.parameters


async def test_a_call_has_the_requests_deadline_metadata_and_caller(context: RequestContext) -> None:
    backend, channel = await learned(PINGS)
    assert await answer_of(backend, request()) == "called"
    [(_, sent, options)] = channel.calls
    assert options["timeout"] == 9
    assert list(options["metadata"]) == [(contract.METADATA_REQUEST_ID, "id")]
    assert sent.parameters[contract.PARAM_CALLER].string_param == "caller"


async def with_open_stream(*extensions: str) -> tuple[Backend, FakeChannel, Stream]:
    """Returns a backend with an open, idle shared stream."""
    backend, channel = await learned(*(extensions or (BATCHES, WHOLE)))
    assert await answer_of(backend, request()) == "called"
    stream = await channel.streams.get()
    await run_pending_tasks()
    channel.calls.clear()
    return backend, channel, stream


async def run_pending_tasks() -> None:
    """Gives streams a few passes of the event loop to send pending requests."""
    for _ in range(5):
        await asyncio.sleep(0)


async def answer_next(stream: Stream, text: str = "shared") -> ModelInferRequest:
    """Answers the next request on the stream and returns a copy of it as sent."""
    sent = ModelInferRequest.FromString((await stream.sent.get()).SerializeToString())
    stream.answers.put_nowait(ended(sent.parameters[contract.PARAM_REQUEST].int64_param, text))
    return sent


def ended(number: int, text: str) -> ModelStreamInferResponse:
    """Returns a step batch with the only row of a request."""
    batch = message(
        (contract.REQUEST, [number]),
        (contract.ROW_TOKEN, [text.encode()]),
        (contract.ROW_INDEX, [0]),
        (contract.ROW_FINISH_REASON, [b"stop"]),
        (contract.ROW_PROMPT_TOKENS, [3]),
        (contract.ROW_CACHED_TOKENS, [0]),
        (contract.ROW_COMPLETION_TOKENS, [2]),
    )
    return ModelStreamInferResponse(infer_response=batch)


async def answer_of(backend: Backend, request: ModelInferRequest) -> str:
    """Returns the text of the whole answer, or the id of the response to a call."""
    call = call_of(request)
    call.read_whole = lambda response, _: Answer([Choice(0, response.id, None)], None)
    answer = await backend.answer(call)
    return answer.choices[0].text


async def test_whole_answers_use_the_shared_stream_once_it_is_open(context: RequestContext) -> None:
    backend, channel, stream = await with_open_stream()
    answer = asyncio.create_task(answer_of(backend, request()))
    sent = await answer_next(stream)
    assert await answer == "shared"
    assert not channel.methods("ModelInfer")
    assert sent.parameters[contract.PARAM_WHOLE].bool_param
    assert sent.parameters[contract.PARAM_CALLER].string_param == "caller"
    assert backend.n_running == 0
    await backend.close()


async def test_no_stream_is_opened_for_a_server_without_the_extension() -> None:
    backend, channel = await learned(BATCHES)
    for _ in range(2):
        assert await answer_of(backend, request()) == "called"
    await run_pending_tasks()
    assert channel.streams.empty()


def too_large() -> ModelInferRequest:
    message = request()
    tensors.add_input(message, contract.PROMPT, [b"x" * MAX_SHARED_BYTES])
    return message


def request_with(spec: contract.TensorSpec) -> ModelInferRequest:
    message = request()
    tensors.add_input(message, spec, [1])
    return message


UNSHARED = [partial(request_with, spec) for spec in contract.NOT_IN_STEP_BATCHES]
UNSHARED_NAMES = [spec.name for spec in contract.NOT_IN_STEP_BATCHES]


@pytest.mark.parametrize(
    "new_request",
    [too_large, *UNSHARED],
    ids=["large", *UNSHARED_NAMES],
)
async def test_a_request_that_the_shared_stream_does_not_support_is_a_call(new_request: Any) -> None:
    backend, _, stream = await with_open_stream()
    assert await answer_of(backend, new_request()) == "called"
    assert stream.sent.empty()
    await backend.close()


async def test_a_request_waits_behind_another_message() -> None:
    backend, channel, stream = await with_open_stream()
    stream.may_send.clear()
    answers = [asyncio.create_task(answer_of(backend, request())) for _ in range(2)]
    await run_pending_tasks()
    stream.may_send.set()
    for text in ("one", "two"):
        await answer_next(stream, text)
    assert await asyncio.gather(*answers) == ["one", "two"]
    assert not channel.methods("ModelInfer")
    await backend.close()


async def test_other_tasks_do_not_use_the_shared_stream() -> None:
    backend, _, stream = await with_open_stream()
    assert (await backend.infer(request())).id == "called"
    assert stream.sent.empty()
    await backend.close()


async def test_a_retired_stream_gets_no_new_request() -> None:
    backend, _, _ = await with_open_stream()
    assert backend._shared is not None
    backend._shared.retired = True
    assert await answer_of(backend, request()) == "called"
    await backend.close()


async def test_a_request_of_a_lost_stream_is_repeated_as_a_call(context: RequestContext) -> None:
    backend, channel, stream = await with_open_stream()
    answer = asyncio.create_task(answer_of(backend, request(kept="x")))
    await stream.sent.get()
    stream.answers.put_nowait(rpc_error("UNAVAILABLE"))
    assert await answer == "called"
    [sent] = channel.methods("ModelInfer")
    assert sorted(sent.parameters) == sorted(["kept", contract.PARAM_CALLER])  # parameters of the stream are removed


async def test_an_error_of_the_request_on_the_shared_stream_is_not_retried() -> None:
    backend, channel, stream = await with_open_stream()
    answer = asyncio.create_task(answer_of(backend, request()))
    number = (await stream.sent.get()).parameters[contract.PARAM_REQUEST].int64_param
    stream.answers.put_nowait(refusal(number))
    with pytest.raises(BackendError) as failed:
        await answer
    assert failed.value.status == "INVALID_ARGUMENT"
    assert not channel.methods("ModelInfer")
    await backend.close()


def refusal(number: int) -> ModelStreamInferResponse:
    response = ModelStreamInferResponse(error_message="no")
    response.infer_response.parameters[contract.PARAM_REQUEST].int64_param = number
    response.infer_response.parameters[contract.ERROR_STATUS].string_param = "INVALID_ARGUMENT"
    return response


# ---- Streams


def mailbox_of(backend: Backend, message: ModelInferRequest | None = None) -> Mailbox:
    return Mailbox(1, lambda k, mailbox: backend.start(call_of(message or request()), k, mailbox), ping_interval=60)


async def all_rows(mailbox: Mailbox) -> list[Row]:
    """Returns all rows until the end."""
    rows: list[Row] = []
    while not mailbox.is_over:
        rows += await mailbox.take()
    mailbox.close()
    return rows


async def test_a_stream_waits_until_the_extensions_are_known() -> None:
    channel = FakeChannel(BATCHES)
    channel.may_answer.clear()
    backend = backend_on(channel)
    mailboxes = [mailbox_of(backend), mailbox_of(backend)]
    assert backend.n_running == 2
    await run_pending_tasks()
    assert channel.streams.empty()
    channel.may_answer.set()
    stream = await channel.streams.get()
    for _ in range(2):
        await stream.sent.get()
    assert len(channel.methods("ServerMetadata")) == 1
    for mailbox in mailboxes:
        mailbox.close()
    await backend.close()


async def test_a_stream_fails_if_the_extensions_cannot_be_looked_up() -> None:
    channel = FakeChannel()
    channel.answers["ServerMetadata"] = rpc_error("UNAVAILABLE")
    backend = backend_on(channel)
    mailbox = mailbox_of(backend)
    with pytest.raises(BackendError) as failed:
        await mailbox.take()
    assert failed.value.status == "UNAVAILABLE"
    await run_pending_tasks()
    assert backend.n_running == 0


async def test_a_stream_can_be_cancelled_before_it_begins() -> None:
    channel = FakeChannel(BATCHES)
    channel.may_answer.clear()
    backend = backend_on(channel)
    mailbox_of(backend).close()
    await run_pending_tasks()
    assert backend.n_running == 0
    assert channel.streams.empty()


@pytest.mark.parametrize(
    ("extensions", "new_request"),
    [((), request), *(((BATCHES, WHOLE), new_request) for new_request in UNSHARED)],
    ids=["no step batches", *UNSHARED_NAMES],
)
async def test_a_request_that_cannot_be_shared_has_its_own_stream(
    extensions: tuple[str, ...], new_request: Any
) -> None:
    backend, channel = await learned(*extensions)
    mailbox = mailbox_of(backend, new_request())
    stream = await channel.streams.get()
    assert contract.PARAM_REQUEST not in (await stream.sent.get()).parameters
    assert channel.calls[0][2]["timeout"] == 9
    for response in (token("a"), last_token("b")):
        stream.answers.put_nowait(ModelStreamInferResponse(infer_response=response))
    stream.answers.put_nowait(None)
    assert [row[:3] for row in await all_rows(mailbox)] == [(0, b"a", None), (0, b"b", "stop")]
    await run_pending_tasks()
    assert backend.n_running == 0


async def test_its_own_stream_has_times_and_progress() -> None:
    backend, channel = await learned()
    mailbox = mailbox_of(backend, request_with(contract.TIMINGS))
    stream = await channel.streams.get()
    counts: list[Any] = [(contract.PROMPT_TOKENS, [3]), (contract.CACHED_TOKENS, [1])]
    steps: list[Any] = [(contract.PROGRESS_TOKENS, [1, 3]), (contract.PROGRESS_MS, [0.0, 1.5])]
    stream.answers.put_nowait(ModelStreamInferResponse(infer_response=message(*counts, *steps)))
    assert await mailbox.take() == []
    assert mailbox.take_progress() == [Progress(3, 1, 1, 0.0), Progress(3, 1, 3, 1.5)]
    times: list[Any] = [(contract.COMPLETION_TOKENS, [1]), (contract.PROMPT_MS, [2.5]), (contract.COMPLETION_MS, [0.5])]
    stream.answers.put_nowait(
        ModelStreamInferResponse(infer_response=message((contract.TOKEN, [b"a"]), *counts, *times))
    )
    assert await mailbox.take() == [(0, b"a", None, ())]
    assert mailbox.timings == Timings(Usage(3, 1, 1), 1, 2.5, 0.5)
    mailbox.close()
    stream.answers.put_nowait(None)
    await run_pending_tasks()


async def test_its_own_stream_has_the_counts_of_the_prompt_before_its_first_row() -> None:
    backend, channel = await learned()
    mailbox = mailbox_of(backend)
    stream = await channel.streams.get()
    stream.answers.put_nowait(ModelStreamInferResponse(infer_response=first_token("a")))
    assert await mailbox.take() == [(0, b"a", None, ())]
    assert (mailbox.prompt_usage(), mailbox.usage_so_far) == (PromptUsage(3, 1), Usage(3, 1, 1))
    mailbox.close()
    stream.answers.put_nowait(None)
    await run_pending_tasks()


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (rpc_error("UNAVAILABLE"), "UNAVAILABLE"),
        (refusal(0), "INVALID_ARGUMENT"),
        (ModelStreamInferResponse(infer_response=token("x", index=7)), "UNKNOWN"),
        (None, "UNKNOWN"),
        (ValueError("a fault of ours"), "INTERNAL"),
    ],
    ids=["lost", "refused", "no such choice", "not whole", "unexpected"],
)
async def test_a_failure_of_its_own_stream_fails_the_request(answer: Any, status: str) -> None:
    backend, channel = await learned()
    mailbox = mailbox_of(backend)
    (await channel.streams.get()).answers.put_nowait(answer)
    with pytest.raises(BackendError) as failed:
        await mailbox.take()
    assert failed.value.status == status
    mailbox.close()


async def test_closing_the_mailbox_cancels_its_own_stream() -> None:
    backend, channel = await learned()
    mailbox = mailbox_of(backend)
    stream = await channel.streams.get()
    mailbox.close()
    await run_pending_tasks()
    assert stream.is_cancelled
    assert backend.n_running == 0


async def test_streams_are_shared_and_a_retired_one_is_replaced() -> None:
    backend, channel = await learned(BATCHES)
    mailboxes = [mailbox_of(backend), mailbox_of(backend)]
    first = await channel.streams.get()
    for _ in range(2):
        await first.sent.get()
    assert backend.n_running == 2
    assert backend._shared is not None
    backend._shared.retired = True
    channel.answers["ServerMetadata"] = ServerMetadataResponse(extensions=[])  # another kind of server
    mailboxes.append(mailbox_of(backend))
    own_stream = await channel.streams.get()
    assert contract.PARAM_REQUEST not in (await own_stream.sent.get()).parameters
    assert len(channel.methods("ServerMetadata")) == 1
    for mailbox in mailboxes:
        mailbox.close()


# ---- The connection


class Watch:
    """Collects the events of a watched backend."""

    def __init__(self) -> None:
        self.events = asyncio.Queue[str]()

    @asynccontextmanager
    async def watch(self, backend: Backend) -> AsyncIterator[None]:
        def note(event: str) -> None:
            self.events.put_nowait(event)

        task = asyncio.create_task(backend.watch(lambda: note("ready"), lambda: note("lost")))
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            await backend.close()


async def test_a_backend_is_usable_while_it_is_connected_and_ready() -> None:
    channel, watch = FakeChannel(), Watch()
    channel.set_state(IDLE)
    backend = backend_on(channel)
    async with watch.watch(backend):
        await run_pending_tasks()
        assert (backend.usable, backend.connected) == (False, False)
        channel.set_state(READY)
        assert await watch.events.get() == "ready"
        assert backend.usable
        assert backend.connected
        channel.set_state(IDLE)
        assert await watch.events.get() == "lost"
        assert not backend.usable
        assert backend._server is None
        channel.set_state(READY)
        assert await watch.events.get() == "ready"


async def test_a_server_that_is_not_ready_is_checked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_module, "READY_INTERVAL", 0)
    channel, watch = FakeChannel(), Watch()
    channel.answers["ServerReady"] = ServerReadyResponse(ready=False)
    backend = backend_on(channel)
    async with watch.watch(backend):
        await run_pending_tasks()
        assert not backend.usable
        channel.answers["ServerReady"] = rpc_error("UNAVAILABLE")
        await run_pending_tasks()
        assert not backend.usable
        channel.answers["ServerReady"] = ServerReadyResponse(ready=True)
        assert await watch.events.get() == "ready"
        assert backend.usable


async def test_a_server_without_the_readiness_method_counts_as_ready() -> None:
    channel, watch = FakeChannel(), Watch()
    channel.answers["ServerReady"] = rpc_error("UNIMPLEMENTED")
    backend = backend_on(channel)
    async with watch.watch(backend):
        assert await watch.events.get() == "ready"
        assert backend.usable


async def test_a_backend_is_not_usable_while_its_readiness_is_rechecked() -> None:
    channel, watch = FakeChannel(), Watch()
    backend = backend_on(channel)
    async with watch.watch(backend):
        assert await watch.events.get() == "ready"
        channel.calls.clear()
        channel.may_answer.clear()
        await run_pending_tasks()
        backend.recheck_readiness()
        backend.recheck_readiness()
        assert not backend.usable
        channel.may_answer.set()
        assert await watch.events.get() == "ready"
        assert backend.usable
        assert len(channel.methods("ServerReady")) == 1


async def test_a_server_that_permits_frequent_pings_gets_another_channel() -> None:
    first, second, watch = FakeChannel(PINGS), FakeChannel(PINGS), Watch()
    dialer = FakeDialer(first, second)
    backend = Backend("a:1", timeout=9, lookup_timeout=3, dialer=dialer)
    async with watch.watch(backend):
        assert await watch.events.get() == "ready"
        assert dialer.frequent_pings == [False, True]
        assert first.closed == [9]
        assert not second.closed
        assert second.methods("ServerReady")


async def test_the_calls_of_a_replaced_channel_have_a_time_limit() -> None:
    first, watch = FakeChannel(PINGS), Watch()
    backend = backend_on(first, FakeChannel(PINGS), timeout=None)
    async with watch.watch(backend):
        await watch.events.get()
        assert first.closed == [NO_TIMEOUT]


@pytest.mark.parametrize("grace", [None, 9.0])
async def test_closing_ends_the_shared_stream_at_once_unless_there_is_time(grace: float | None) -> None:
    backend, channel, stream = await with_open_stream()
    answer = asyncio.create_task(answer_of(backend, request()))
    sent = await stream.sent.get()
    await backend.close(grace)
    assert channel.closed == [grace]
    if grace is None:
        assert stream.is_cancelled
        answer.cancel()
        return
    assert not stream.is_cancelled
    stream.answers.put_nowait(ended(sent.parameters[contract.PARAM_REQUEST].int64_param, "x"))
    await answer
    await run_pending_tasks()
    assert stream.is_cancelled
