"""The response of `/v1/embeddings`, in OpenAI's form. PURE."""

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec
import orjson
from msgspec import Struct

from openai_server.api.schemas_tasks import EmbeddingRequest
from openai_server.api.usage import TaskUsage, task_usage
from protos import contract, tensors


class Embedding(Struct):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(Struct):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: TaskUsage | None


def vector(elements: Sequence[float], request: EmbeddingRequest) -> Any:
    """The value of `embedding`: base64, or a list of numbers as encoded JSON. As Python floats, thousands of vectors
    would take ten times the memory."""
    if request.encoding_format == "base64":
        return base64.b64encode(tensors.to_raw(contract.EMBEDDING.datatype, elements)).decode()
    return msgspec.Raw(orjson.dumps(list(elements)))


def embeddings(model: str, vectors: Iterable[Any], counts: Iterable[int | None]) -> Embeddings:
    data = [Embedding("embedding", index, vector) for index, vector in enumerate(vectors)]
    return Embeddings("list", data, model, task_usage(counts))
