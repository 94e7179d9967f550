"""The response of `/v1/rerank`, in Jina's form, which clients of Cohere and llama-server accept too. PURE."""

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import UNSET, Struct, UnsetType

from openai_server.api.schemas_tasks import RerankRequest
from openai_server.api.usage import TaskUsage, task_usage


class RankedText(Struct):
    text: str


class Ranked(Struct):
    index: int
    relevance_score: float
    document: RankedText | UnsetType = UNSET


class Ranking(Struct):
    id: str
    object: Literal["list"]
    model: str
    results: list[Ranked]
    usage: TaskUsage | None


def ranking(
    id: str, model: str, request: RerankRequest, scores: Sequence[float], counts: Iterable[int | None]
) -> Ranking:
    """The response, best document first. Documents with equal scores keep the order of the request."""
    texts = request.texts
    best = sorted(range(len(texts)), key=lambda i: -scores[i])[: request.top_n]
    results = [Ranked(i, scores[i], RankedText(texts[i]) if request.return_documents else UNSET) for i in best]
    return Ranking(id, "list", model, results, task_usage(counts))
