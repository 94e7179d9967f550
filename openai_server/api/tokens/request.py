"""The requests of the endpoints for tokens. PURE."""

from openai_server.access.caps import Caps
from openai_server.api.schemas import parse_chat
from openai_server.api.schemas_tasks import (
    DetokenizeRequest,
    TokenizeRequest,
    parse_detokenize,
    parse_template,
    parse_tokenize,
)
from openai_server.api.within_caps import within_caps
from openai_server.core.turn import Turn


def tokenize(body: bytes, caps: Caps) -> TokenizeRequest:
    """Raises InvalidRequest."""
    request = parse_tokenize(body)
    caps.check_fields(request.prompt_fields(), len(body))
    return request


def detokenize(body: bytes, caps: Caps) -> DetokenizeRequest:
    """Raises InvalidRequest."""
    request = parse_detokenize(body)
    caps.check_fields(request.prompt_fields(), len(body))
    return request


def apply_template(body: bytes, _: Caps) -> Turn:
    """A chat to render without generating an answer. The limits on prompts don't apply. Raises InvalidRequest."""
    return parse_template(body).turn()


def chat_to_count(body: bytes, caps: Caps) -> Turn:
    """A chat whose prompt is counted. Raises InvalidRequest for whatever the chat itself would be refused for."""
    return within_caps(parse_chat(body), caps, len(body)).turn
