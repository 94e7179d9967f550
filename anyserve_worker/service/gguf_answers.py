"""Turns the results of an engine into responses."""

from collections.abc import AsyncIterator
from dataclasses import replace

from anyserve_worker.core.delta import Delta, merge
from anyserve_worker.core.task_requests import (
    DetokenizeRequest,
    EmbedRequest,
    RankRequest,
    TaskRequest,
    TokenizeRequest,
)
from anyserve_worker.engine.engine import Engine
from anyserve_worker.engine.running_request import RunningGeneration
from anyserve_worker.service.request import names_capability
from anyserve_worker.service.responder import Outputs, Responder
from anyserve_worker.service.tasks import embedding_outputs, score_outputs, token_outputs
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse


async def run_task(engine: Engine, request: TaskRequest) -> Outputs:
    match request:
        case EmbedRequest():
            return embedding_outputs(request, await engine.embed(request))
        case RankRequest():
            return score_outputs(await engine.embed(request))
        case TokenizeRequest():
            return token_outputs(*await engine.tokenize(request))
        case DetokenizeRequest():
            return [(contract.WHOLE_TEXT, [await engine.detokenize(request)])]


async def stream_responses(
    request: ModelInferRequest, responder: Responder, generation: RunningGeneration
) -> AsyncIterator[tuple[ModelInferResponse, bool]]:
    """Yields each response, and whether it is the last one."""
    anyserve = names_capability(request, contract.ANYSERVE_GENERATE, contract.ANYSERVE_GENERATE_STREAM)
    empty_final = request.parameters[contract.PARAM_EMPTY_FINAL].bool_param and not anyserve
    async for deltas in generation:
        done = generation.complete
        parts = [merge(deltas)]
        if anyserve:
            parts = [part for part in _split_ends(parts[0]) if part]
        for part in parts:
            last = done and part is parts[-1] and not empty_final
            yield responder.stream(part, final=last), last
    if empty_final:
        yield responder.stream([], final=True), True


def _split_ends(choices: list[Delta]) -> tuple[list[Delta], list[Delta]]:
    """Separates text from ends: in AnyServe's protocol, an empty token of its own ends a choice."""
    texts = [
        replace(choice, finish_reason=None) for choice in choices if choice.text or choice.logprobs or choice.progress
    ]
    ends = [replace(choice, text="", logprobs=(), progress=()) for choice in choices if choice.finish_reason]
    return texts, ends
