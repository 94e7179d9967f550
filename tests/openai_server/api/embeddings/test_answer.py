import base64
import json
import struct

from hypothesis import given
from hypothesis import strategies as st
from openai.types import CreateEmbeddingResponse

from openai_server.api.embeddings.answer import embeddings, vector
from openai_server.api.schemas_tasks import EmbeddingRequest
from openai_server.http.json_response import encode
from tests.shapes import exact

FLOATS = st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=9)


@given(vectors=st.lists(FLOATS, min_size=1, max_size=3))
def test_embeddings_are_valid_and_exact_in_every_encoding(vectors: list[list[float]]) -> None:
    for encoding in (None, "float", "base64"):
        request = EmbeddingRequest(input="x", encoding_format=encoding)
        encoded = [vector(elements, request) for elements in vectors]
        payload = json.loads(encode(embeddings("m", encoded, [2] * len(vectors))))
        if encoding == "base64":
            for item in payload["data"]:
                data = base64.b64decode(item["embedding"])
                item["embedding"] = list(struct.unpack(f"<{len(data) // 4}f", data))
        response = exact(CreateEmbeddingResponse, payload)
        assert [item.embedding for item in response.data] == vectors
        assert [item.index for item in response.data] == list(range(len(vectors)))
        assert (response.usage.prompt_tokens, response.usage.total_tokens) == (2 * len(vectors), 2 * len(vectors))


def test_usage_is_none_if_a_count_is_unknown() -> None:
    assert embeddings("m", [], [1, None]).usage is None
