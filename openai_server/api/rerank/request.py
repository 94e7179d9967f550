"""The request of `/v1/rerank`. PURE."""

from openai_server.access.caps import Caps
from openai_server.api.schemas_tasks import RerankRequest, parse_rerank


def parse(body: bytes, caps: Caps) -> RerankRequest:
    """Raises InvalidRequest."""
    request = parse_rerank(body)
    caps.check_fields(request.prompt_fields(), len(body))
    return request
