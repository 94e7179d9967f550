"""Tasks other than generation: reads requests from tensors, and converts results to tensors. PURE."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from anyserve_worker.core.errors import EngineFailure, InvalidRequest
from anyserve_worker.core.task_requests import (
    DetokenizeRequest,
    EmbedRequest,
    RankRequest,
    TaskRequest,
    TokenizeRequest,
)
from anyserve_worker.scheduling.embedding_queue import EmbeddingJob, finished_vector
from anyserve_worker.service.request import (
    caller_of,
    names_capability,
    plain_spans,
    prompt_of,
    read_inputs,
    scalar,
    tensor_error,
    timeout_of,
    utf8,
)
from anyserve_worker.service.responder import Outputs
from protos import contract
from protos.contract import TensorSpec
from protos.grpc_predict_v2_pb2 import ModelInferRequest


def task_of(message: ModelInferRequest) -> str | None:
    """Returns the requested task, named by a parameter or as AnyServe's capability; None: none is named. Raises
    InvalidRequest."""
    name = contract.PARAM_TASK
    task = contract.TASK_GENERATE if names_capability(message, contract.ANYSERVE_GENERATE_STREAM) else None
    if name in message.parameters:
        parameter = message.parameters[name]
        task = parameter.string_param
        if parameter.WhichOneof("parameter_choice") != "string_param" or task not in contract.TASKS:
            raise InvalidRequest(f"parameter '{name}': must be one of {', '.join(contract.TASKS)}")
    if names_capability(message, *contract.TASKS):
        if name in message.parameters and task != message.model_name:
            raise InvalidRequest(f"parameter '{name}': '{task}', but the capability is '{message.model_name}'")
        task = message.model_name
    return task


def parse(task: str, message: ModelInferRequest) -> TaskRequest:
    """Reads the request of a task. Raises InvalidRequest, which names the tensor."""
    inputs = read_inputs(message, contract.TASKS[task].inputs)

    def elements(spec: TensorSpec) -> Sequence[Any]:
        if spec.name not in inputs:
            raise tensor_error(spec, "missing")
        return inputs[spec.name].elements

    def text(spec: TensorSpec) -> str:
        return utf8(spec, elements(spec)[0])

    if task == contract.TASK_EMBED:
        pooling = text(contract.POOLING) if contract.POOLING.name in inputs else None
        if pooling is not None and pooling not in contract.POOLINGS:
            raise tensor_error(contract.POOLING, f"must be one of {', '.join(contract.POOLINGS)}")
        return EmbedRequest(
            prompt=prompt_of(inputs),
            pooling=pooling,
            normalize=scalar(inputs, contract.NORMALIZE, True),
            dimensions=scalar(inputs, contract.DIMENSIONS, None),
            timeout=timeout_of(message),
            caller=caller_of(message),
            priority=scalar(inputs, contract.PRIORITY, 0),
        )
    if task == contract.TASK_RANK:
        return RankRequest(
            text(contract.QUERY),
            text(contract.DOCUMENT),
            timeout_of(message),
            caller_of(message),
            scalar(inputs, contract.PRIORITY, 0),
        )
    if task == contract.TASK_TOKENIZE:
        to_tokenize = text(contract.TEXT_TO_TOKENIZE)
        return TokenizeRequest(
            to_tokenize,
            plain_spans(inputs, to_tokenize),
            scalar(inputs, contract.ADD_SPECIAL, False),
            scalar(inputs, contract.PARSE_SPECIAL, True),
        )
    return DetokenizeRequest(elements(contract.TOKENS_TO_TEXT))


# ---- Results to tensors


def embedding_outputs(request: EmbedRequest, job: EmbeddingJob) -> Outputs:
    """Raises EngineFailure if the vector is not finite."""
    vector = finished_vector(job, normalize=request.normalize, dimensions=request.dimensions)
    if not np.isfinite(vector).all():
        raise EngineFailure("the model computed an embedding that is not finite")
    return [(contract.EMBEDDING, vector.tolist()), (contract.PROMPT_TOKENS, [len(job.tokens)])]


def score_outputs(job: EmbeddingJob) -> Outputs:
    """Raises EngineFailure if the score is not finite. The first of several scores counts, as in llama-server."""
    assert job.vector is not None
    score = float(job.vector[0])
    if not np.isfinite(score):
        raise EngineFailure("the model computed a score that is not finite")
    return [(contract.SCORE, [score]), (contract.PROMPT_TOKENS, [len(job.tokens)])]


def token_outputs(tokens: Sequence[int], pieces: Sequence[bytes]) -> Outputs:
    return [(contract.TOKEN_IDS, tokens), (contract.TOKEN_PIECES, pieces)]
