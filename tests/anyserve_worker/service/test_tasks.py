"""Tensors to requests that generate nothing, and results back to tensors: what is refused, and by which name."""

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
    """An input is a list of elements as the contract wants them, or a pair of another datatype and elements."""
    made = ModelInferRequest(model_name=model, model_version=version)
    if task is not None:
        made.parameters[contract.PARAM_TASK].string_param = task
    specs = {spec.name: spec for each in contract.TASKS.values() for spec in each.inputs}
    for name, given in inputs.items():
        if isinstance(given, tuple):
            add_input(made, TensorSpec(name, given[0], (-1,), ""), given[1])
        else:
            add_input(made, specs[name], given)
    return made


def raw(made: ModelInferRequest) -> ModelInferRequest:
    for tensor in made.inputs:
        contents = tensor.contents.ListFields()
        made.raw_input_contents.append(to_raw(tensor.datatype, list(contents[0][1]) if contents else []))
        tensor.ClearField("contents")
    return made


# ---- Which task it is


def test_without_a_word_it_is_generation() -> None:
    assert task_of(message()) == contract.TASK_GENERATE


@pytest.mark.parametrize("task", contract.TASKS)
def test_a_task_is_named_by_its_parameter_or_in_anyserves_manner(task: str) -> None:
    assert task_of(message(task)) == task
    assert task_of(message(model=task, version="llamacpp")) == task
    assert task_of(message(task, model=task, version="llamacpp")) == task
    assert task_of(message(model=task)) == contract.TASK_GENERATE, "a model may have such a name"


def test_a_task_that_is_none() -> None:
    wrong = message()
    wrong.parameters[contract.PARAM_TASK].int64_param = 1
    for refused in (message("sing"), message(""), wrong, message("rank", model="embed", version="llamacpp")):
        with pytest.raises(InvalidRequest, match="parameter 'task'"):
            task_of(refused)


# ---- What is taken


@pytest.mark.parametrize("form", [lambda made: made, raw], ids=["typed", "raw"])
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
def test_a_request(form: Any, task: str, inputs: dict[str, Any], expected: object) -> None:
    assert parse(task, form(message(task, **inputs))) == expected


def test_tokens() -> None:
    request = parse("embed", message("embed", prompt_token_ids=[3, 4]))
    assert isinstance(request, EmbedRequest)
    assert list(request.prompt) == [3, 4]
    for ids in ([3, 4], []):
        request = parse("detokenize", message("detokenize", prompt_token_ids=ids))
        assert isinstance(request, DetokenizeRequest)
        assert list(request.token_ids) == ids


def test_a_timeout() -> None:
    for made in (message("embed", prompt=[b"x"]), message("rank", prompt=[b"x"], document=[b"y"])):
        made.parameters[contract.PARAM_TIMEOUT].int64_param = 1_500_000
        request = parse(made.parameters[contract.PARAM_TASK].string_param, made)
        assert isinstance(request, EmbedRequest | RankRequest)
        assert request.timeout == 1.5


# ---- What is refused


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
def test_a_request_that_is_refused(task: str, inputs: dict[str, Any], tensor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        parse(task, message(task, **inputs))
    assert refused.value.tensor == tensor
    assert f"'{tensor}'" in str(refused.value)


# ---- Results


def done(*elements: float) -> EmbeddingJob:
    return EmbeddingJob(array("i", [5, 6]), contract.POOLING_LAST, n_computed=2, vector=np.array(elements))


def test_an_embedding_as_tensors() -> None:
    outputs = embedding_outputs(EmbedRequest("x", dimensions=1, normalize=False), done(0.5, 2))
    assert outputs == [(contract.EMBEDDING, [0.5]), (contract.PROMPT_TOKENS, [2])]


def test_a_score_as_tensors() -> None:
    assert score_outputs(done(-3.5, 1)) == [(contract.SCORE, [-3.5]), (contract.PROMPT_TOKENS, [2])]


def test_what_is_no_number_is_the_models_fault() -> None:
    with pytest.raises(EngineFailure):
        embedding_outputs(EmbedRequest("x"), done(float("nan"), 1))
    with pytest.raises(EngineFailure):
        score_outputs(done(float("inf")))


def test_tokens_as_tensors() -> None:
    assert token_outputs([1], [b"a"]) == [(contract.TOKEN_IDS, [1]), (contract.TOKEN_PIECES, [b"a"])]


# ---- The caller


@pytest.mark.parametrize(
    ("task", "inputs"),
    [(contract.TASK_EMBED, {"prompt": [b"a"]}), (contract.TASK_RANK, {"prompt": [b"a"], "document": [b"b"]})],
)
def test_the_caller(task: str, inputs: dict[str, Any]) -> None:
    made = message(task, **inputs)
    request = parse(task, made)
    assert isinstance(request, EmbedRequest | RankRequest)
    assert request.caller == ""
    made.parameters[contract.PARAM_CALLER].string_param = "team-a"
    request = parse(task, made)
    assert isinstance(request, EmbedRequest | RankRequest)
    assert request.caller == "team-a"
    made.parameters[contract.PARAM_CALLER].int64_param = 1
    with pytest.raises(InvalidRequest, match="anyserve_caller"):
        parse(task, made)
