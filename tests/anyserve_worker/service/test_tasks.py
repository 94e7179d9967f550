"""Tensors to requests of the tasks other than generation, and their results to tensors."""

from array import array
from typing import Any

import numpy as np
import pytest

from anyserve_worker.core.errors import EngineFailure, InvalidRequest
from anyserve_worker.core.task_requests import DetokenizeRequest, EmbedRequest, RankRequest, TokenizeRequest
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob
from anyserve_worker.service.tasks import embedding_outputs, parse, score_outputs, task_of, token_outputs
from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest
from protos.tensors import add_input, to_raw


def message(task: str | None = None, *, model: str = "m", version: str = "", **inputs: Any) -> ModelInferRequest:
    """Returns a request. An input is a list of elements, or (datatype, elements) to deviate from the contract."""
    request_message = ModelInferRequest(model_name=model, model_version=version)
    if task is not None:
        request_message.parameters[contract.PARAM_TASK].string_param = task
    specs = {spec.name: spec for task_spec in contract.TASKS.values() for spec in task_spec.inputs}
    for name, elements in inputs.items():
        if isinstance(elements, tuple):
            add_input(request_message, TensorSpec(name, elements[0], (-1,), ""), elements[1])
        else:
            add_input(request_message, specs[name], elements)
    return request_message


def raw(request_message: ModelInferRequest) -> ModelInferRequest:
    for tensor in request_message.inputs:
        contents = tensor.contents.ListFields()
        request_message.raw_input_contents.append(to_raw(tensor.datatype, list(contents[0][1]) if contents else []))
        tensor.ClearField("contents")
    return request_message


# ---- The task


def test_without_a_task_the_model_chooses() -> None:
    assert task_of(message()) is None


@pytest.mark.parametrize("task", contract.TASKS)
def test_a_task_is_named_by_its_parameter_or_by_anyserves_model_name(task: str) -> None:
    assert task_of(message(task)) == task
    assert task_of(message(model=task, version="llamacpp")) == task
    assert task_of(message(task, model=task, version="llamacpp")) == task
    assert task_of(message(model=task)) is None, "a model may have such a name"


def test_an_unknown_task_is_rejected() -> None:
    wrong = message()
    wrong.parameters[contract.PARAM_TASK].int64_param = 1
    for rejected in (message("sing"), message(""), wrong, message("rank", model="embed", version="llamacpp")):
        with pytest.raises(InvalidRequest, match="parameter 'task'"):
            task_of(rejected)


# ---- Accepted requests


@pytest.mark.parametrize("form", [lambda typed: typed, raw], ids=["typed", "raw"])
@pytest.mark.parametrize(
    ("task", "inputs", "expected"),
    [
        ("embed", {"prompt": ["é".encode()]}, EmbedRequest("é")),
        (
            "embed",
            {"prompt": [b"x"], "pooling": [b"last"], "normalize": [False], "dimensions": [5]},
            EmbedRequest("x", "last", normalize=False, dimensions=5),
        ),
        ("embed", {"prompt": [b"x"], "priority": [2]}, EmbedRequest("x", priority=2)),
        ("rank", {"prompt": [b"q"], "document": [b"d"]}, RankRequest("q", "d")),
        ("rank", {"prompt": [b"q"], "document": [b"d"], "priority": [2]}, RankRequest("q", "d", priority=2)),
        ("tokenize", {"prompt": [b""]}, TokenizeRequest("")),
        (
            "tokenize",
            {"prompt": [b"x"], "add_special": [True], "parse_special": [False]},
            TokenizeRequest("x", add_special=True, parse_special=False),
        ),
    ],
)
def test_every_input_sets_its_field(form: Any, task: str, inputs: dict[str, Any], expected: object) -> None:
    assert parse(task, form(message(task, **inputs))) == expected


def test_embed_and_detokenize_accept_token_ids() -> None:
    request = parse("embed", message("embed", prompt_token_ids=[3, 4]))
    assert isinstance(request, EmbedRequest)
    assert list(request.prompt) == [3, 4]
    for ids in ([3, 4], []):
        request = parse("detokenize", message("detokenize", prompt_token_ids=ids))
        assert isinstance(request, DetokenizeRequest)
        assert list(request.token_ids) == ids


def test_a_timeout_is_in_microseconds() -> None:
    for request_message in (message("embed", prompt=[b"x"]), message("rank", prompt=[b"x"], document=[b"y"])):
        request_message.parameters[contract.PARAM_TIMEOUT].int64_param = 1_500_000
        request = parse(request_message.parameters[contract.PARAM_TASK].string_param, request_message)
        assert isinstance(request, EmbedRequest | RankRequest)
        assert request.timeout == 1.5


# ---- Rejected requests


@pytest.mark.parametrize(
    ("task", "inputs", "tensor"),
    [
        ("embed", {}, "prompt"),
        ("embed", {"prompt": [b"x"], "prompt_token_ids": [1]}, "prompt"),
        ("embed", {"prompt_token_ids": []}, "prompt_token_ids"),
        ("embed", {"prompt_token_ids": [-1]}, "prompt_token_ids"),
        ("embed", {"prompt": [b"\xff"]}, "prompt"),
        ("embed", {"prompt": [b"a", b"b"]}, "prompt"),
        ("embed", {"prompt": [b"x"], "pooling": [b"max"]}, "pooling"),
        ("embed", {"prompt": [b"x"], "pooling": [b"\xff"]}, "pooling"),
        ("embed", {"prompt": [b"x"], "normalize": ("INT32", [1])}, "normalize"),
        ("embed", {"prompt": [b"x"], "dimensions": [0]}, "dimensions"),
        ("embed", {"prompt": [b"x"], "temperature": [1.0]}, "temperature"),
        ("rank", {"document": [b"x"]}, "prompt"),
        ("rank", {"prompt": [b"x"]}, "document"),
        ("rank", {"prompt": [b"x"], "document": [b"\xff"]}, "document"),
        ("tokenize", {}, "prompt"),
        ("tokenize", {"prompt": [b"x"], "add_special": [True, True]}, "add_special"),
        ("tokenize", {"prompt": [b"x"], "normalize": [True]}, "normalize"),
        ("detokenize", {}, "prompt_token_ids"),
        ("detokenize", {"prompt_token_ids": [-1]}, "prompt_token_ids"),
    ],
)
def test_an_invalid_request_is_rejected_with_its_tensor(task: str, inputs: dict[str, Any], tensor: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse(task, message(task, **inputs))
    assert caught.value.tensor == tensor
    assert f"'{tensor}'" in str(caught.value)


# ---- Results


def done(*elements: float) -> EmbeddingJob:
    return EmbeddingJob(array("i", [5, 6]), contract.POOLING_LAST, n_computed=2, vector=np.array(elements))


def test_an_embedding_becomes_tensors() -> None:
    outputs = embedding_outputs(EmbedRequest("x", dimensions=1, normalize=False), done(0.5, 2))
    assert outputs == [(contract.EMBEDDING, [0.5]), (contract.PROMPT_TOKENS, [2])]


def test_a_score_becomes_tensors() -> None:
    assert score_outputs(done(-3.5, 1)) == [(contract.SCORE, [-3.5]), (contract.PROMPT_TOKENS, [2])]


def test_a_result_that_is_not_finite_is_an_engine_failure() -> None:
    with pytest.raises(EngineFailure):
        embedding_outputs(EmbedRequest("x"), done(float("nan"), 1))
    with pytest.raises(EngineFailure):
        score_outputs(done(float("inf")))


def test_tokens_become_tensors() -> None:
    assert token_outputs([1], [b"a"]) == [(contract.TOKEN_IDS, [1]), (contract.TOKEN_PIECES, [b"a"])]


# ---- The caller


@pytest.mark.parametrize(
    ("task", "inputs"),
    [(contract.TASK_EMBED, {"prompt": [b"a"]}), (contract.TASK_RANK, {"prompt": [b"a"], "document": [b"b"]})],
)
def test_the_caller_is_a_string(task: str, inputs: dict[str, Any]) -> None:
    request_message = message(task, **inputs)
    request = parse(task, request_message)
    assert isinstance(request, EmbedRequest | RankRequest)
    assert request.caller == ""
    request_message.parameters[contract.PARAM_CALLER].string_param = "team-a"
    request = parse(task, request_message)
    assert isinstance(request, EmbedRequest | RankRequest)
    assert request.caller == "team-a"
    request_message.parameters[contract.PARAM_CALLER].int64_param = 1
    with pytest.raises(InvalidRequest, match="anyserve_caller"):
        parse(task, request_message)
