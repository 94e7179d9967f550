import json
from typing import Any

import pytest

from openai_server.api.rerank.answer import ranking
from openai_server.api.schemas_tasks import RerankRequest
from openai_server.http.json_response import encode


def sent(*arguments: Any) -> Any:
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
    told = sent("rerank-1", "m", request, [-1.0, 2.5, 0.0, 2.5], [1, 2, 3, 4])
    assert [(result["index"], result["relevance_score"]) for result in told["results"]] == results
    assert all(set(result) == {"index", "relevance_score"} for result in told["results"])
    assert (told["id"], told["model"], told["usage"]) == ("rerank-1", "m", {"prompt_tokens": 10, "total_tokens": 10})


def test_documents_come_back_if_they_are_asked_for() -> None:
    request = RerankRequest(query="q", documents=["a", "b"], return_documents=True)
    told = sent("", "m", request, [0, 1], [1, 1])
    assert [result["document"] for result in told["results"]] == [{"text": "b"}, {"text": "a"}]
