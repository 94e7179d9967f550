import json
from typing import Any

import pytest

from openai_server.api.rerank.answer import ranking
from openai_server.api.schemas_tasks import RerankRequest
from openai_server.http.json_response import encode


def payload_of(*arguments: Any) -> Any:
    return json.loads(encode(ranking(*arguments)))


@pytest.mark.parametrize(
    ("top_n", "return_documents", "results"),
    [
        (None, None, [(1, 2.5), (3, 2.5), (2, 0.0), (0, -1.0)]),
        (2, False, [(1, 2.5), (3, 2.5)]),
        (9, None, [(1, 2.5), (3, 2.5), (2, 0.0), (0, -1.0)]),
    ],
)
def test_the_best_document_comes_first(
    top_n: int | None, return_documents: bool | None, results: list[tuple[int, float]]
) -> None:
    request = RerankRequest(query="q", documents=list("abcd"), top_n=top_n, return_documents=return_documents)
    payload = payload_of("rerank-1", "m", request, [-1.0, 2.5, 0.0, 2.5], [1, 2, 3, 4])
    assert [(result["index"], result["relevance_score"]) for result in payload["results"]] == results
    assert all(set(result) == {"index", "relevance_score"} for result in payload["results"])
    assert (payload["id"], payload["model"], payload["usage"]) == (
        "rerank-1",
        "m",
        {"prompt_tokens": 10, "total_tokens": 10},
    )


def test_documents_are_returned_if_requested() -> None:
    request = RerankRequest(query="q", documents=["a", "b"], return_documents=True)
    payload = payload_of("", "m", request, [0, 1], [1, 1])
    assert [result["document"] for result in payload["results"]] == [{"text": "b"}, {"text": "a"}]
