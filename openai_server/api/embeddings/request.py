"""The request of `/v1/embeddings`. PURE."""

from openai_server.access.caps import Caps
from openai_server.api.schemas_tasks import EmbeddingRequest, parse_embedding


def parse(body: bytes, caps: Caps) -> EmbeddingRequest:
    """Raises InvalidRequest."""
    request = parse_embedding(body)
    caps.check_fields(request.prompt_fields(), len(body))
    return request
