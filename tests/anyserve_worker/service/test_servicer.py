"""KServe's methods on fake engines: answers, errors as gRPC statuses, cancellation, drain and limits."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from anyserve_worker.core.task_requests import EmbedRequest
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob
from anyserve_worker.scheduling.sequence import token_array
from anyserve_worker.service.gguf_model import GGUFModel
from anyserve_worker.service.repository import Repository
from anyserve_worker.service.served_model import State
from anyserve_worker.service.servicer import MAX_ID_LENGTH, InferenceServicer
from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from tests.anyserve_worker.fakes import WAIT_TIMEOUT
from tests.anyserve_worker.service.fakes import (
    Aborted,
    FakeContext,
    FakeEngine,
    Refusal,
    Requests,
    delta,
    outputs,
    request,
    run_pending_tasks,
    served,
)


class Service:
    """A servicer with two models: `m` is ready, `broken` failed to load."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.model = served(self.engine)
        self.broken = GGUFModel("broken", Path(), State.UNAVAILABLE)
        self.broken.reason = "no such file"
        repository = Repository([self.model, self.broken])
        self.servicer = InferenceServicer(repository)

    def infer(self, message: pb.ModelInferRequest, *metadata: tuple[str, str]) -> "asyncio.Task[pb.ModelInferResponse]":
        context: Any = FakeContext(*metadata)
        return asyncio.create_task(self.servicer.ModelInfer(message, context))

    async def refusal(self, message: pb.ModelInferRequest) -> Aborted:
        with pytest.raises(Aborted) as caught:
            async with asyncio.timeout(WAIT_TIMEOUT):
                await self.infer(message)
        return caught.value

    def stream(self, requests: Requests) -> AsyncIterator[pb.ModelStreamInferResponse]:
        context: Any = FakeContext()
        return self.servicer.ModelStreamInfer(aiter(requests), context)


async def first(responses: AsyncIterator[pb.ModelStreamInferResponse]) -> pb.ModelStreamInferResponse:
    async with asyncio.timeout(WAIT_TIMEOUT):
        return await anext(responses)


@pytest.fixture
async def service() -> Service:
    return Service()


CONTEXT: Any = FakeContext()


# ---- Answers


async def test_a_unary_answer_has_the_whole_text_of_each_choice(service: Service) -> None:
    answer = service.infer(request("x", n=2))
    generation = await service.engine.running.get()
    for part in (delta("a", index=1), delta("b"), delta("c", "stop", index=1), delta("d", "length")):
        generation.put(part)
    response = await answer
    assert response.id == "x"
    assert outputs(response)[contract.TEXT.name] == [b"bd", b"ac"]
    assert outputs(response)["finish_reason"] == [b"length", b"stop"]


async def test_a_generation_has_the_origin_of_its_call(service: Service) -> None:
    answer = service.infer(request("x"), (contract.METADATA_REQUEST_ID, "client-7"))
    generation = await service.engine.running.get()
    assert (generation.origin.id, generation.origin.request_id) == ("x", "client-7")
    generation.put(delta("", "stop"))
    await answer


async def test_the_result_of_a_task_is_returned_as_tensors(service: Service) -> None:
    async def embed(request: EmbedRequest) -> EmbeddingJob:
        assert (request.prompt, request.normalize) == ("hello", False)
        return EmbeddingJob(token_array([1, 2]), "cls", n_computed=2, vector=np.array([3.0, 4.0]))

    service.engine.embed = embed  # type: ignore[attr-defined]
    service.model.tasks = (contract.TASK_EMBED,)
    message = pb.ModelInferRequest(model_name="m")
    message.parameters[contract.PARAM_TASK].string_param = contract.TASK_EMBED
    message.inputs.add(name="prompt", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"hello")
    message.inputs.add(name="normalize", datatype="BOOL", shape=[1]).contents.bool_contents.append(False)
    assert outputs(await service.infer(message)) == {"embedding": [3.0, 4.0], "prompt_tokens": [2]}


async def test_the_load_is_that_of_all_ready_models(service: Service) -> None:
    service.servicer._repository._models["other"] = served(FakeEngine(), "other")
    message = pb.ModelInferRequest(model_name=contract.ANYSERVE_MODEL_INFO, model_version=contract.ANYSERVE_VERSION)
    for spec in contract.LOAD_OUTPUTS:
        message.outputs.add(name=spec.name)
    load = {"sequences_waiting": [4], "sequences_running": [6], "kv_cells": [200], "kv_cells_running": [80]}
    assert outputs(await service.infer(message)) == load


async def test_the_deltas_of_a_stream_are_returned(service: Service) -> None:
    requests = Requests()
    requests.send(request("x"))
    requests.end()
    responses = service.stream(requests)
    reading = asyncio.ensure_future(first(responses))
    (await service.engine.running.get()).put(delta("a", "stop"))
    assert outputs((await reading).infer_response)["token"] == [b"a"]
    with pytest.raises(StopAsyncIteration):
        await first(responses)


# ---- Errors


async def test_a_worker_error_is_returned_with_its_status_and_details(service: Service) -> None:
    service.engine.refusal = Refusal("full", tensor="prompt")
    error = await service.refusal(request())
    assert (error.status, str(error)) == (StatusCode.RESOURCE_EXHAUSTED, "full")
    assert error.details == {contract.ERROR_REASON: "too_much", contract.ERROR_TENSOR: "prompt"}


async def test_any_other_error_is_an_internal_error_without_its_message(service: Service) -> None:
    service.engine.refusal = ValueError("secret")
    error = await service.refusal(request())
    assert (error.status, str(error), error.details) == (StatusCode.INTERNAL, "internal error", {})


async def test_a_generation_that_fails_fails_its_call(service: Service) -> None:
    answer = service.infer(request())
    generation = await service.engine.running.get()
    generation.put(delta("a"))
    generation.put(Refusal("lost"))
    with pytest.raises(Aborted, match="lost"):
        await answer


async def test_an_error_that_ends_a_stream_sets_its_status(service: Service) -> None:
    requests = Requests()
    requests.fail(ValueError("secret"))
    with pytest.raises(Aborted, match=r"^internal error$") as caught:
        await first(service.stream(requests))
    assert caught.value.status is StatusCode.INTERNAL


@pytest.mark.parametrize(
    ("name", "version", "status"),
    [
        ("nothing", "", StatusCode.NOT_FOUND),
        ("m", "2", StatusCode.NOT_FOUND),
        ("broken", "", StatusCode.UNAVAILABLE),
    ],
)
async def test_an_unknown_or_broken_model_has_its_own_status(
    service: Service, name: str, version: str, status: StatusCode
) -> None:
    message = request()
    message.model_name, message.model_version = name, version
    assert (await service.refusal(message)).status is status


async def test_a_task_that_the_model_does_not_support_is_rejected(service: Service) -> None:
    message = pb.ModelInferRequest(model_name="m")
    message.parameters[contract.PARAM_TASK].string_param = contract.TASK_EMBED
    error = await service.refusal(message)
    assert (error.status, str(error)) == (
        StatusCode.INVALID_ARGUMENT,
        "model 'm' does not support 'embed', only generate",
    )


async def test_only_generation_can_be_streamed(service: Service) -> None:
    service.model.tasks = (contract.TASK_GENERATE, contract.TASK_EMBED)
    message = request("x")
    message.parameters[contract.PARAM_TASK].string_param = contract.TASK_EMBED
    requests = Requests()
    requests.send(message)
    assert "'embed' cannot be streamed" in (await first(service.stream(requests))).error_message


# ---- Limits and cancellation


async def test_an_id_may_have_a_thousand_characters(service: Service) -> None:
    error = await service.refusal(request("x" * (MAX_ID_LENGTH + 1)))
    assert error.status is StatusCode.INVALID_ARGUMENT
    answer = service.infer(request("x" * MAX_ID_LENGTH))
    (await service.engine.running.get()).put(delta("", "stop"))
    assert len((await answer).id) == MAX_ID_LENGTH


async def test_cancelling_a_call_cancels_its_generation(service: Service) -> None:
    answer = service.infer(request())
    generation = await service.engine.running.get()
    answer.cancel()
    assert await service.engine.cancelled.get() is generation


# ---- Drain


async def test_requests_are_rejected_while_the_worker_drains(service: Service) -> None:
    service.servicer.drain()
    error = await service.refusal(request())
    assert (error.status, error.details[contract.ERROR_REASON]) == (StatusCode.UNAVAILABLE, contract.REASON_DRAINING)


async def test_a_worker_is_drained_after_its_last_call(service: Service) -> None:
    first, second = service.infer(request()), service.infer(request())
    running = [await service.engine.running.get(), await service.engine.running.get()]
    service.servicer.drain()
    drained = asyncio.ensure_future(service.servicer.wait_until_drained())
    running[0].put(delta("", "stop"))
    await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
    await run_pending_tasks()
    assert not drained.done()
    running[1].put(delta("", "stop"))
    async with asyncio.timeout(WAIT_TIMEOUT):
        await drained


async def test_an_idle_worker_is_drained_at_once(service: Service) -> None:
    service.servicer.drain()
    async with asyncio.timeout(WAIT_TIMEOUT):
        await service.servicer.wait_until_drained()


async def test_a_worker_is_not_drained_before_it_drains(service: Service) -> None:
    answer = service.infer(request())
    (await service.engine.running.get()).put(delta("", "stop"))
    await answer
    drained = asyncio.ensure_future(service.servicer.wait_until_drained())
    await run_pending_tasks()
    assert not drained.done()
    drained.cancel()


async def test_a_worker_that_reports_not_ready_still_answers(service: Service) -> None:
    service.broken.state = State.READY
    ready = service.servicer.ServerReady
    assert (await ready(pb.ServerReadyRequest(), CONTEXT)).ready
    service.servicer.reports_ready = False
    assert not (await ready(pb.ServerReadyRequest(), CONTEXT)).ready
    assert not (await service.servicer.ModelReady(pb.ModelReadyRequest(name="m"), CONTEXT)).ready
    answer = service.infer(request())
    (await service.engine.running.get()).put(delta("", "stop"))
    await answer


# ---- Models


async def test_a_server_is_ready_when_all_its_models_are(service: Service) -> None:
    servicer = service.servicer
    assert not (await servicer.ServerReady(pb.ServerReadyRequest(), CONTEXT)).ready
    assert (await servicer.ModelReady(pb.ModelReadyRequest(name="m"), CONTEXT)).ready
    assert not (await servicer.ModelReady(pb.ModelReadyRequest(name="broken"), CONTEXT)).ready


async def test_the_index_lists_all_models_or_only_ready_ones(service: Service) -> None:
    async def index(*, ready: bool) -> list[tuple[str, str, str]]:
        answer = await service.servicer.RepositoryIndex(pb.RepositoryIndexRequest(ready=ready), CONTEXT)
        return [(model.name, model.state, model.reason) for model in answer.models]

    assert await index(ready=False) == [("m", "READY", ""), ("broken", "UNAVAILABLE", "no such file")]
    assert await index(ready=True) == [("m", "READY", "")]


async def test_a_model_has_the_tensors_of_its_tasks(service: Service) -> None:
    service.model.tasks = (contract.TASK_EMBED, contract.TASK_TOKENIZE)
    answer = await service.servicer.ModelMetadata(pb.ModelMetadataRequest(name="m"), CONTEXT)
    tasks = [contract.TASKS[task] for task in service.model.tasks]
    assert {tensor.name for tensor in answer.inputs} == {spec.name for task in tasks for spec in task.inputs}
    assert len({tensor.name for tensor in answer.inputs}) == len(answer.inputs)
    assert "token" not in {tensor.name for tensor in answer.outputs}


async def test_statistics_cover_ready_models(service: Service) -> None:
    service.engine.stats.success.add(5)
    answer = await service.servicer.ModelStatistics(pb.ModelStatisticsRequest(), CONTEXT)
    (model,) = answer.model_stats
    assert (model.name, model.inference_count, model.inference_stats.success.ns) == ("m", 1, 5)
