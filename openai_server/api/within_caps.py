"""Turns requests into turns within this server's limits. PURE."""

from openai_server.access.caps import Caps
from openai_server.api.schemas import ChatRequest, CompletionRequest, GenerateRequest


def within_caps(request: CompletionRequest | ChatRequest, caps: Caps, body_size: int) -> GenerateRequest:
    """Raises InvalidRequest. `body_size` is the size of the request's body in bytes."""
    turn = caps.applied(request.turn(), request.prompt_fields(), body_size)
    tier = request.service_tier if isinstance(request, ChatRequest) else None
    return GenerateRequest(turn, bool(request.stream), request.include_usage, tier)
