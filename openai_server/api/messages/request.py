"""The requests of `/v1/messages` and `/v1/messages/count_tokens`. PURE."""

from typing import Any, TypeVar

from msgspec import Struct

from openai_server.access.caps import Caps
from openai_server.api.messages.fields import COUNT_FIELDS, MESSAGES_FIELDS
from openai_server.api.messages.schema import ConversationTurn, CountTokensRequest, MessagesRequest, MessagesTurn
from openai_server.api.schemas import Fields, bounds, check_extensions, convert, load
from openai_server.api.schemas.guides import decode_schemas

R = TypeVar("R", bound=Struct)


def parse(body: bytes, caps: Caps) -> MessagesTurn:
    """Raises InvalidRequest."""
    request = _converted(body, MessagesRequest, MESSAGES_FIELDS)
    check_extensions(request)
    turn = request.turn()
    if caps.output_tokens:
        # The field is required, so clients set it to what some model allows. A refusal would end their sessions.
        turn.token_limit = min(request.max_tokens, caps.output_tokens)
    return MessagesTurn(
        caps.applied(turn, (), len(body)),
        bool(request.stream),
        omits_thinking=request.omits_thinking,
        stop_sequences=tuple(request.stop_sequences or ()),
    )


def parse_count(body: bytes, caps: Caps) -> ConversationTurn:
    """Raises InvalidRequest."""
    turn = _converted(body, CountTokensRequest, COUNT_FIELDS).turn()
    caps.applied(turn, (), len(body))
    return turn


def _converted(body: bytes, struct: type[R], fields: Fields) -> R:
    payload: dict[str, Any] = load(body)
    bounds.check_messages(payload.get("messages"), len(body))
    bounds.check_free_form(payload, len(body))
    decode_schemas(payload)
    fields.clean(payload)
    return convert(payload, struct)
