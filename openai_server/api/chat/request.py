"""The request of `/v1/chat/completions`. PURE."""

from openai_server.access.caps import Caps
from openai_server.api.schemas import GenerateRequest, parse_chat
from openai_server.api.within_caps import within_caps


def parse(body: bytes, caps: Caps) -> GenerateRequest:
    """Raises InvalidRequest."""
    return within_caps(parse_chat(body), caps, len(body))
