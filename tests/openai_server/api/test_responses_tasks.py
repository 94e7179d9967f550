import base64
import json
import struct

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from openai_server.api import responses_tasks
from openai_server.api.schemas_tasks import (
    ContentToTokenize,
    EmbeddingRequest,
    MessagesToTokenize,
    PromptToTokenize,
    RerankRequest,
)
from tests.shapes import exact

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9)


@given(vectors=st.lists(FLOATS, min_size=1, max_size=3))
def test_embeddings_are_valid_and_exact_in_both_encodings(vectors: list[list[float]]) -> None:
    for encoding in (None, "float", "base64"):
        request = EmbeddingRequest(input="x", encoding_format=encoding)
        made = [responses_tasks.vector(vector, request) for vector in vectors]
        told = orjson.loads(orjson.dumps(responses_tasks.embeddings("m", made, [2] * len(vectors))))
        if encoding == "base64":
            for item in told["data"]:
                data = base64.b64decode(item["embedding"])
                item["embedding"] = list(struct.unpack(f"<{len(data) // 4}f", data))
        response = exact(CreateEmbeddingResponse, told)
        assert [item.embedding for item in response.data] == vectors
        assert [item.index for item in response.data] == list(range(len(vectors)))
        assert (response.usage.prompt_tokens, response.usage.total_tokens) == (2 * len(vectors), 2 * len(vectors))


def test_counts_are_not_made_up() -> None:
    assert responses_tasks.embeddings("m", [], [1, None])["usage"] is None


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
    told = responses_tasks.rerank("rerank-1", "m", request, [-1.0, 2.5, 0.0, 2.5], [1, 2, 3, 4])
    assert [(result["index"], result["relevance_score"]) for result in told["results"]] == results
    assert all(set(result) == {"index", "relevance_score"} for result in told["results"])
    assert (told["id"], told["model"], told["usage"]) == ("rerank-1", "m", {"prompt_tokens": 10, "total_tokens": 10})


def test_documents_come_back_if_they_are_asked_for() -> None:
    request = RerankRequest(query="q", documents=["a", "b"], return_documents=True)
    told = responses_tasks.rerank("", "m", request, [0, 1], [1, 1])
    assert [result["document"] for result in told["results"]] == [{"text": "b"}, {"text": "a"}]


def test_tokens_have_the_form_of_the_request() -> None:
    ids, pieces = [5, 6], ["é".encode()[:1], b"x"]
    assert responses_tasks.tokens(ContentToTokenize(content=""), ids, pieces, 9) == {"tokens": [5, 6]}
    with_pieces = responses_tasks.tokens(ContentToTokenize(content="", with_pieces=True), ids, pieces, 9)
    assert with_pieces == {"tokens": [{"id": 5, "piece": [0xC3]}, {"id": 6, "piece": "x"}]}
    for request in (PromptToTokenize(prompt=""), MessagesToTokenize(messages=[])):
        told = responses_tasks.tokens(request, ids, pieces, 9)
        assert told == {"count": 2, "max_model_len": 9, "tokens": [5, 6]}
        request.return_token_strs = True
        assert responses_tasks.tokens(request, ids, pieces, None)["token_strs"] == ["\ufffd", "x"]
    assert json.loads(orjson.dumps(responses_tasks.text("a"))) == {"content": "a", "prompt": "a"}
