"""The worker over real gRPC with real models: what it generates, and how it refuses invalid requests."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from protos import contract
from protos import grpc_predict_v2_pb2 as pb
from protos.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from tests.e2e import servers
from tests.e2e.conftest import GEMMA3, SMOLLM2
from tests.e2e.messages import LONG_STORY, STORY, infer, outputs, text, to_raw

Service = GRPCInferenceServiceStub


def test_the_server_describes_itself_and_its_models(service: Service) -> None:
    assert service.ServerLive(pb.ServerLiveRequest()).live
    assert service.ServerReady(pb.ServerReadyRequest()).ready
    assert service.ModelReady(pb.ModelReadyRequest(name=GEMMA3)).ready
    index = service.RepositoryIndex(pb.RepositoryIndexRequest(ready=True))
    assert [(model.name, model.state) for model in index.models] == [(SMOLLM2, "READY"), (GEMMA3, "READY")]
    assert "model_configuration" in service.ServerMetadata(pb.ServerMetadataRequest()).extensions
    metadata = service.ModelMetadata(pb.ModelMetadataRequest(name=SMOLLM2))
    inputs = [spec.name for spec in contract.INPUTS]
    assert [tensor.name for tensor in metadata.inputs][: len(inputs)] == inputs
    assert "add_special" in {tensor.name for tensor in metadata.inputs}
    smollm2, gemma3 = (
        service.ModelConfig(pb.ModelConfigRequest(name=name)).config.parameters for name in (SMOLLM2, GEMMA3)
    )
    assert "<|im_start|>" in smollm2["chat_template"].string_value
    assert smollm2["context_length"].string_value == "2048"
    assert smollm2["tasks"].string_value == "generate,embed,tokenize,detokenize"
    assert (smollm2["embedding_length"].string_value, smollm2["pooling"].string_value) == ("576", "mean")
    assert smollm2["eos_token"].string_value == "<|im_end|>"
    assert gemma3["bos_token"].string_value == "<bos>"
    assert gemma3["architecture"].string_value == "gemma3"
    assert "chat_template" not in gemma3


@pytest.mark.parametrize("model", [SMOLLM2, GEMMA3])
def test_a_stream_is_the_unary_response_in_pieces(exact_service: Service, model: str) -> None:
    request = infer(model, STORY, max_tokens=40, temperature=0.0)
    whole = outputs(exact_service.ModelInfer(request))
    responses = [response.infer_response for response in exact_service.ModelStreamInfer(iter([request]))]
    parts = [outputs(response) for response in responses]
    assert "".join(part["token"][0] for part in parts) == whole["text"][0]
    assert [part["finish_reason"] for part in parts[:-1]] == [["null"]] * (len(parts) - 1)
    assert parts[-1]["finish_reason"] == whole["finish_reason"] == ["length"]
    assert parts[-1]["completion_tokens"] == whole["completion_tokens"] == [40]
    assert parts[0]["prompt_tokens"] == parts[-1]["prompt_tokens"] == whole["prompt_tokens"]
    assert parts[0]["cached_tokens"] == parts[-1]["cached_tokens"]
    assert not any("prompt_tokens" in part for part in parts[1:-1])
    finals = [response.parameters[contract.PARAM_FINAL].bool_param for response in responses]
    assert finals == [False] * (len(responses) - 1) + [True]


def test_the_end_of_the_turn_ends_the_generation(service: Service) -> None:
    prompt = "<|im_start|>user\nSay yes.<|im_end|>\n<|im_start|>assistant\n"
    response = outputs(service.ModelInfer(infer(SMOLLM2, prompt, temperature=0.0, max_tokens=200)))
    assert response["finish_reason"] == ["stop"]
    assert response["completion_tokens"][0] < 200
    assert "<|im_end|>" not in response["text"][0]


def test_a_stop_string_ends_the_text_before_itself(exact_service: Service) -> None:
    whole = text(exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=40, temperature=0.0)))
    stop = whole[20:27]  # spans several tokens
    response = outputs(
        exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=40, temperature=0.0, stop=["zzz", stop]))
    )
    assert response["text"] == [whole[: whole.index(stop)]]
    assert response["finish_reason"] == ["stop"]


def test_n_choices_are_different_and_reproducible(exact_service: Service) -> None:
    request = infer(SMOLLM2, STORY, max_tokens=12, seed=7, n=3)
    whole = outputs(exact_service.ModelInfer(request))
    assert len(set(whole["text"])) == 3
    assert whole["completion_tokens"] == [12, 12, 12]
    streamed = ["", "", ""]
    for response in exact_service.ModelStreamInfer(iter([request])):
        part = outputs(response.infer_response)
        for index, token in zip(part["index"], part["token"], strict=True):
            streamed[index] += token
    assert streamed == whole["text"]
    assert whole["text"][1] == text(exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=12, seed=8)))
    other_text = text(exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=12, seed=11)))
    assert other_text not in whole["text"]


def test_n_choices_finish_together_in_one_batch(service: Service) -> None:
    reasons: dict[int, str] = {}
    texts = ["", "", ""]
    for response in service.ModelStreamInfer(iter([infer(SMOLLM2, STORY, max_tokens=12, seed=7, n=3)])):
        part = outputs(response.infer_response)
        for index, token, reason in zip(part["index"], part["token"], part["finish_reason"], strict=True):
            texts[index] += token
            if reason != contract.NOT_FINISHED:
                reasons[index] = reason
    assert reasons == dict.fromkeys(range(3), "length")
    assert len(set(texts)) == 3


def test_token_ids_are_used_as_they_are(service: Service) -> None:
    response = outputs(service.ModelInfer(infer(SMOLLM2, [1, 4093, 198], max_tokens=1)))
    assert response["prompt_tokens"] == [3]


@pytest.mark.parametrize("prompt", ["Hello", "<bos>Hello"])
def test_bos_comes_once(service: Service, prompt: str) -> None:
    response = outputs(service.ModelInfer(infer(GEMMA3, prompt, max_tokens=1)))
    assert response["prompt_tokens"] == [2]


def test_a_stream_never_splits_a_character(service: Service) -> None:
    prompt = "Repeat: 😀🎉🚀😀🎉🚀😀🎉🚀😀🎉🚀😀🎉🚀😀🎉🚀"
    pieces = [
        outputs(response.infer_response)["token"][0]
        for response in service.ModelStreamInfer(iter([infer(SMOLLM2, prompt, max_tokens=16, temperature=0.0)]))
    ]
    assert "😀" in "".join(pieces)
    assert "\ufffd" not in "".join(pieces[:-1])


def test_a_response_has_the_form_of_its_request(exact_service: Service) -> None:
    typed = infer(SMOLLM2, STORY, max_tokens=3, temperature=0.0, stop=["abc"])
    raw = to_raw(typed)
    assert raw.raw_input_contents
    responses = exact_service.ModelInfer(typed), exact_service.ModelInfer(raw)
    assert not responses[0].raw_output_contents
    assert responses[1].raw_output_contents
    assert outputs(responses[0])["text"] == outputs(responses[1])["text"]


def test_only_the_requested_outputs_are_sent(service: Service) -> None:
    request = infer(SMOLLM2, STORY, max_tokens=1)
    request.outputs.add(name="text")
    assert list(outputs(service.ModelInfer(request))) == ["text"]


def test_a_stream_carries_many_requests_and_outlives_a_bad_one(service: Service) -> None:
    requests = [
        infer(SMOLLM2, STORY, id="a", max_tokens=5),
        infer(SMOLLM2, STORY, id="bad", max_tokens=-3),
        infer("nobody", STORY, id="unknown"),
        infer(GEMMA3, STORY, id="b", max_tokens=7),
    ]
    requests[3].parameters[contract.PARAM_EMPTY_FINAL].bool_param = True
    finished: dict[str, int] = {}
    errors: dict[str, tuple[str, str]] = {}
    for response in service.ModelStreamInfer(iter(requests)):
        result = response.infer_response
        final = result.parameters[contract.PARAM_FINAL].bool_param
        assert result.id not in finished, "nothing follows the final response"
        if response.error_message:
            errors[result.id] = (result.parameters[contract.ERROR_STATUS].string_param, response.error_message)
        if final:
            finished[result.id] = len(result.outputs)
    assert errors.keys() == {"bad", "unknown"}
    assert errors["bad"][0] == "INVALID_ARGUMENT"
    assert "max_tokens" in errors["bad"][1]
    assert errors["unknown"][0] == "NOT_FOUND"
    assert finished["a"] > 0
    assert finished["b"] == 0, "the request wants an empty final response"


def test_anyserve_capabilities_address_the_first_model(service: Service) -> None:
    info = model_info(service)
    assert (info["model_name"], info["n_ctx"]) == ([SMOLLM2], [2048])
    request = infer("generate", STORY, max_tokens=8, temperature=0.0)
    request.model_version = "llamacpp"
    whole = outputs(service.ModelInfer(request))
    assert whole["model"] == [SMOLLM2]
    request.model_name = "generate_stream"
    parts = [outputs(response.infer_response) for response in service.ModelStreamInfer(iter([request]))]
    assert "".join(part["token"][0] for part in parts)
    assert all(part["finish_reason"] == ["null"] for part in parts[:-1])
    assert (parts[-1]["token"], parts[-1]["finish_reason"]) == ([""], ["length"])


def model_info(service: Service) -> dict[str, list[Any]]:
    return outputs(service.ModelInfer(pb.ModelInferRequest(model_name="model_info", model_version="llamacpp")))


def test_the_worker_reports_its_thread_counts(service: Service) -> None:
    service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=4, temperature=0.0, n=2))
    info = model_info(service)
    kinds = dict(zip(zip(info["step_kind"], info["step_tokens"], strict=True), info["step_threads"], strict=True))
    assert kinds[("decode", 2)] >= 1
    assert any(kind == "prefill" for kind, _ in kinds)
    assert max(info["step_threads"]) <= len(os.sched_getaffinity(0))


@dataclass(frozen=True)
class Failure:
    code: grpc.StatusCode
    message: str
    trailers: dict[str, str | bytes]


def _failure(error: object) -> Failure:
    assert isinstance(error, grpc.RpcError)
    assert isinstance(error, grpc.Call)
    return Failure(error.code(), error.details() or "", {entry[0]: entry[1] for entry in error.trailing_metadata()})


def _error(service: Service, request: pb.ModelInferRequest, timeout: float | None = None) -> Failure:
    with pytest.raises(grpc.RpcError) as caught:
        service.ModelInfer(request, timeout=timeout)
    return _failure(caught.value)


@pytest.mark.parametrize(
    ("inputs", "tensor"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": [1, 2]}, "max_tokens"),
        ({"n": 0}, "n"),
        ({"top_p": 1.5}, "top_p"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_an_invalid_tensor_is_named(service: Service, inputs: dict[str, Any], tensor: str) -> None:
    error = _error(service, infer(SMOLLM2, STORY, **inputs))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert f"'{tensor}'" in error.message
    assert error.trailers[contract.ERROR_TENSOR] == tensor


def test_a_temperature_near_zero_is_greedy(exact_service: Service) -> None:
    greedy, near_zero = (
        text(exact_service.ModelInfer(infer(SMOLLM2, STORY, max_tokens=8, temperature=temperature)))
        for temperature in (0.0, 1e-40)
    )
    assert near_zero == greedy


def test_a_long_id_is_refused(service: Service) -> None:
    """Every response repeats the id."""
    assert _error(service, infer(SMOLLM2, STORY, id="x" * 100_000)).code is grpc.StatusCode.INVALID_ARGUMENT


def test_an_invalid_message_ends_its_stream(worker_address: str, service: Service) -> None:
    with grpc.insecure_channel(worker_address) as channel:
        stream: Any = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
        call = stream(iter([b"nonsense"]))
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
    assert _failure(caught.value).code is grpc.StatusCode.INVALID_ARGUMENT
    assert service.ServerReady(pb.ServerReadyRequest()).ready


def test_the_worker_reads_no_more_from_a_client_that_does_not_read(service: Service) -> None:
    """Responses wait to be read, but not without limit; HTTP/2's windows hold some thousands of this size."""
    n_sent = 0

    def requests() -> Iterator[pb.ModelInferRequest]:
        nonlocal n_sent
        request = infer("nobody" * 10_000, "x" * 100_000)
        while n_sent < 30000:
            n_sent += 1
            yield request

    call = service.ModelStreamInfer(requests())
    before = -1
    while n_sent > before:
        before = n_sent
        time.sleep(1)
    call.cancel()
    assert n_sent < 10_000


def test_a_prompt_longer_than_the_context_is_refused(service: Service) -> None:
    error = _error(service, infer(SMOLLM2, "word " * 3000))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "prompt" in error.message
    assert "2048" in error.message
    assert error.trailers[contract.ERROR_REASON] == contract.REASON_CONTEXT_LENGTH


def test_a_token_outside_of_the_vocabulary_is_refused(service: Service) -> None:
    error = _error(service, infer(SMOLLM2, [1, 10_000_000]))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "prompt_token_ids" in error.message


@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("", ""), (SMOLLM2, "7")])
def test_an_unknown_model_is_not_found(service: Service, name: str, version: str) -> None:
    request = infer(name, STORY)
    request.model_version = version
    assert _error(service, request).code is grpc.StatusCode.NOT_FOUND


def test_generation_continues_until_the_context_is_full(service: Service) -> None:
    prompt = "word " * 2000
    response = outputs(service.ModelInfer(infer(SMOLLM2, prompt, temperature=0.0)))
    if response["finish_reason"] == ["length"]:
        assert response["prompt_tokens"][0] + response["completion_tokens"][0] == 2048
    else:
        assert response["prompt_tokens"][0] + response["completion_tokens"][0] < 2048


@pytest.mark.parametrize("kind", ["deadline", "timeout"])
def test_a_deadline_ends_a_request_and_frees_the_engine(service: Service, kind: str) -> None:
    n_failed = servers.statistics(service, SMOLLM2).inference_stats.fail.count
    request = infer(SMOLLM2, STORY, n=4, temperature=2.0, stop=[])
    if kind == "timeout":
        request.parameters[contract.PARAM_TIMEOUT].int64_param = 300_000
    error = _error(service, request, timeout=0.3 if kind == "deadline" else None)
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    servers.eventually(lambda: servers.statistics(service, SMOLLM2).inference_stats.fail.count == n_failed + 1)
    assert _idle(service)


def test_a_client_that_disconnects_stops_its_request(service: Service) -> None:
    n_failed = servers.statistics(service, SMOLLM2).inference_stats.fail.count
    call = service.ModelStreamInfer(iter([infer(SMOLLM2, STORY, n=4, temperature=2.0)]))
    next(call)
    call.cancel()
    servers.eventually(lambda: servers.statistics(service, SMOLLM2).inference_stats.fail.count == n_failed + 1)
    assert _idle(service)


def _idle(service: Service) -> bool:
    """Returns whether the engine takes no steps, so nothing is running."""
    steps = servers.statistics(service, SMOLLM2).execution_count
    service.ModelInfer(infer(GEMMA3, "Hello", max_tokens=3))
    return servers.statistics(service, SMOLLM2).execution_count == steps


def test_a_prefix_is_computed_once(service: Service) -> None:
    prompt = LONG_STORY + "This one is about a raven."
    first = outputs(service.ModelInfer(infer(SMOLLM2, prompt, max_tokens=1)))
    second = outputs(service.ModelInfer(infer(SMOLLM2, prompt + " And a wolf.", max_tokens=1)))
    assert second["cached_tokens"][0] >= first["prompt_tokens"][0] - 1


def test_every_request_of_a_busy_batch_gets_its_own_response(service: Service) -> None:
    """More requests than slots, of different lengths, some cancelled."""
    prompts = [f"<|im_start|>user\nCount from {i}.<|im_end|>\n<|im_start|>assistant\n" for i in range(40)]
    responses: dict[int, dict[str, list[object]]] = {}

    def send_request(i: int) -> None:
        request = infer(SMOLLM2, prompts[i], max_tokens=4 + i % 5, temperature=0.0)
        if i % 8 == 7:
            call = service.ModelInfer.future(request)
            call.cancel()
        else:
            responses[i] = outputs(service.ModelInfer(request))

    threads = [threading.Thread(target=send_request, args=(i,)) for i in range(len(prompts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert responses.keys() == {i for i in range(40) if i % 8 != 7}
    assert all(a["completion_tokens"][0] <= 4 + i % 5 for i, a in responses.items())  # type: ignore[operator]


@pytest.fixture
def crowded_service() -> Iterator[Service]:
    """A worker with one slot, room for one request in the queue, and few KV cells."""
    from tests.models import smollm2_path

    options = ("--model", f"{SMOLLM2}={smollm2_path()}", "--parallel", "1", "--max-queue", "1", "--n-ctx", "512")
    with servers.worker(*options) as (_, address), servers.stub(address) as stub:
        yield stub


def test_a_full_queue_refuses_at_once(crowded_service: Service) -> None:
    running = crowded_service.ModelStreamInfer(iter([infer(SMOLLM2, STORY, temperature=2.0)]))
    next(running)
    calls = [crowded_service.ModelInfer.future(infer(SMOLLM2, STORY, max_tokens=1)) for _ in range(3)]
    servers.eventually(lambda: sum(call.done() for call in calls) == 2)
    refused = [call for call in calls if call.done()]
    failures = [_failure(call.exception()) for call in refused]
    assert [failure.code for failure in failures] == [grpc.StatusCode.RESOURCE_EXHAUSTED] * 2
    assert failures[0].trailers[contract.ERROR_REASON] == contract.REASON_QUEUE_FULL
    running.cancel()
    (queued,) = (call for call in calls if call not in refused)
    assert outputs(queued.result(timeout=60))["completion_tokens"] == [1]
