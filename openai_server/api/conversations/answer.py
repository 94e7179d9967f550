"""Answers of `/v1/conversations`. PURE."""

from collections.abc import Mapping
from typing import Literal

import orjson
from msgspec import Struct

from openai_server.store import records


class Conversation(Struct, kw_only=True):
    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    """Unix seconds."""
    metadata: Mapping[str, str]


class DeletedConversation(Struct, kw_only=True):
    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True


def conversation(stored: records.Conversation) -> Conversation:
    return Conversation(id=stored.id, created_at=int(stored.created_at), metadata=orjson.loads(stored.metadata))
