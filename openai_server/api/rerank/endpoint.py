"""The registry entry of `/v1/rerank`, and its work."""

from functools import partial

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Endpoint, Example, RequestType, with_v1
from openai_server.api.examples import MODEL
from openai_server.api.generation import spread
from openai_server.api.rerank.answer import Ranking, ranking
from openai_server.api.rerank.request import parse
from openai_server.api.schemas_tasks import RERANK_FIELDS, RerankRequest
from openai_server.api.tasks import Task, TaskHandler, columns
from openai_server.backends.dialects.anyserve import decode, encode_tasks
from openai_server.backends.directory import Model
from protos import contract


async def rerank(task: Task, request: RerankRequest) -> Ranking:
    """Raises APIError."""

    async def work(model: Model) -> Ranking:
        priority = task.priority(request.priority, model)
        calls = await spread(
            encode_tasks.rank(request.query, text, priority, to) for text, to in task.with_targets(request.texts, model)
        )
        results = await task.infer(calls, model, decode.score)
        return ranking(task.id, model.name, request, *columns(results))

    return await task.perform(contract.TASK_RANK, request.model, work, encode_tasks.RERANK_PARAMS)


RERANK = Endpoint(
    paths=with_v1("/rerank"),
    method="POST",
    handler=partial(TaskHandler, parse=parse, work=rerank, id_prefix="rerank-"),
    description=Description(
        tag="Texts",
        summary="Order documents by their relevance to a query",
        requests=[RequestType("rerank", RerankRequest, RERANK_FIELDS)],
        examples={
            "documents": Example(
                "Two documents (needs a reranker; other models get status 400, unsupported_task)",
                {"model": MODEL, "query": "Which animal can fly?", "documents": ["a fox", "a crow"]},
            )
        },
        answers=[Ranking],
        example={
            "id": "rerank-1ad2b9a1f3c9fd3f6a1c1a0c1a4f0d52",
            "object": "list",
            "model": "bge-reranker-v2-m3",
            "results": [{"index": 1, "relevance_score": 2.36}, {"index": 0, "relevance_score": -7.81}],
            "usage": {"prompt_tokens": 22, "total_tokens": 22},
        },
        errors=endpoint.WORK,
    ),
)
