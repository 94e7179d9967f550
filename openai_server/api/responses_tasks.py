"""Results to the objects that embeddings, rerank, tokenize and detokenize answer with.

PURE. Embeddings have OpenAI's shape; rerank has Jina's, which clients of Cohere and llama-server read too; the other
two have that of the request, llama-server's or vLLM's.
"""

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from openai_server.api.chat_message import JsonObject
from openai_server.api.schemas_tasks import (
    ContentToTokenize,
    EmbeddingRequest,
    MessagesToTokenize,
    PromptToTokenize,
    RerankRequest,
    TokenizeRequest,
)
from protos import contract, tensors


def vector(elements: Sequence[float], request: EmbeddingRequest) -> str | orjson.Fragment:
    """As JSON at once: as numbers, thousands of vectors would take ten times the room."""
    if request.encoding_format == "base64":
        return base64.b64encode(tensors.to_raw(contract.EMBEDDING.datatype, elements)).decode()
    return orjson.Fragment(orjson.dumps(list(elements)))


def embeddings(model: str, vectors: Iterable[Any], counts: Iterable[int | None]) -> JsonObject:
    return {
        "object": "list",
        "data": [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(vectors)],
        "model": model,
        "usage": _usage(counts),
    }


def rerank(
    id: str, model: str, request: RerankRequest, scores: Sequence[float], counts: Iterable[int | None]
) -> JsonObject:
    """The best document first; of equal ones, the one that was given first."""
    texts = request.texts
    results: list[JsonObject] = []
    for index in sorted(range(len(texts)), key=lambda i: -scores[i])[: request.top_n]:
        result: JsonObject = {"index": index, "relevance_score": scores[index]}
        if request.return_documents:
            result["document"] = {"text": texts[index]}
        results.append(result)
    return {"id": id, "object": "list", "model": model, "results": results, "usage": _usage(counts)}


def _usage(counts: Iterable[int | None]) -> JsonObject | None:
    """None if the backend does not count."""
    n = 0
    for count in counts:
        if count is None:
            return None
        n += count
    return {"prompt_tokens": n, "total_tokens": n}


def tokens(
    request: TokenizeRequest, ids: Sequence[int], pieces: Sequence[bytes], max_model_len: int | None
) -> JsonObject:
    if isinstance(request, ContentToTokenize):
        if not request.with_pieces:
            return {"tokens": list(ids)}
        return {"tokens": [{"id": id, "piece": _piece(piece)} for id, piece in zip(ids, pieces, strict=True)]}
    assert isinstance(request, PromptToTokenize | MessagesToTokenize)
    told: JsonObject = {"count": len(ids), "max_model_len": max_model_len, "tokens": list(ids)}
    if request.return_token_strs:
        told["token_strs"] = [piece.decode(errors="replace") for piece in pieces]
    return told


def _piece(piece: bytes) -> str | list[int]:
    """llama-server's way to tell a piece that ends inside a character."""
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


def text(text: str) -> JsonObject:
    """`content` is llama-server's, `prompt` vLLM's."""
    return {"content": text, "prompt": text}
