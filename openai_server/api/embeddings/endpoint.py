"""The registry entry of `/v1/embeddings`, and its work."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace

from openai_server.api import endpoint
from openai_server.api.embeddings.answer import Embeddings, embeddings, vector
from openai_server.api.embeddings.request import parse
from openai_server.api.endpoint import Description, Endpoint, Example, RequestType, by_model, with_v1
from openai_server.api.examples import MODEL, SERVED
from openai_server.api.generation import spread
from openai_server.api.schemas_tasks import EMBEDDING_FIELDS, EmbeddingRequest
from openai_server.api.tasks import Task, TaskHandler, columns
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.directory import Model
from openai_server.core.turn import Prompt
from protos import contract
from protos.grpc_predict_v2_pb2 import ModelInferResponse


async def embed(task: Task, request: EmbeddingRequest) -> Embeddings:
    """Raises APIError."""

    def read(response: ModelInferResponse) -> tuple[Any, int | None]:
        elements, n_tokens = decode.embedding(response)
        return vector(elements, request), n_tokens

    async def work(model: Model) -> Embeddings:
        options = replace(request.options, priority=task.priority(request.priority, model))
        calls = await spread(
            encode_tasks.embed(prompt, options, to) for prompt, to in task.with_targets(request.prompts, model)
        )
        return embeddings(model.name, *columns(await task.infer(calls, model, read)))

    return await task.perform(contract.TASK_EMBED, request.model, work, encode_tasks.EMBEDDING_PARAMS)


def _prompts(request: EmbeddingRequest) -> Sequence[Prompt]:
    return request.prompts


EMBEDDINGS = Endpoint(
    paths=(*with_v1("/embeddings"), *by_model("embeddings")),
    method="POST",
    handler=partial(TaskHandler, parse=parse, prompts=_prompts, work=embed, id_prefix="embd-"),
    operation="embeddings",
    description=Description(
        tag="Texts",
        summary="Convert texts to embedding vectors",
        requests=[RequestType("embeddings", EmbeddingRequest, EMBEDDING_FIELDS)],
        examples={"texts": Example("Two texts", {"model": MODEL, "input": ["a fox", "a crow"]})},
        answers=[Embeddings],
        example={  # vectors are shortened
            "object": "list",
            "data": [
                {"object": "embedding", "index": 0, "embedding": [-0.0407, 0.0008, 0.0028]},
                {"object": "embedding", "index": 1, "embedding": [-0.0246, 0.0305, 0.0142]},
            ],
            "model": SERVED,
            "usage": {"prompt_tokens": 4, "total_tokens": 4},
        },
        errors=endpoint.WORK,
    ),
)
