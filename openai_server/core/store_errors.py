"""Errors about what is stored. PURE.

The store raises them: an object that belongs to another caller is the same as one that doesn't exist.
"""

from anyserve_common.text import shortened
from openai_server.core.errors import APIError, InvalidRequest


class StoreAway(APIError):
    """The store doesn't answer (status 503)."""

    def __init__(self) -> None:
        super().__init__(
            503,
            "The store of this server can't be reached at the moment. Requests that need nothing from it work, such as "
            "responses with `store: false` and without `previous_response_id` and `conversation`.",
            code="store_unavailable",
        )


class NothingStored(APIError):
    """The server has no store."""

    def __init__(self) -> None:
        super().__init__(
            404,
            "This server keeps no responses and conversations. Its operator can set the option --store.",
            code="store_disabled",
        )


class ResponseNotFound(APIError):
    def __init__(self, id: str) -> None:
        super().__init__(404, f"Response with id '{shortened(id)}' not found.", code="response_not_found")


class PreviousResponseNotFound(APIError):
    def __init__(self, id: str) -> None:
        super().__init__(
            404,
            f"Previous response with id '{shortened(id)}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )


class PreviousResponseUnfinished(InvalidRequest):
    def __init__(self, id: str, status: str) -> None:
        super().__init__(
            f"The previous response '{shortened(id)}' is {status}: it can be continued when it has ended.",
            param="previous_response_id",
            code="previous_response_not_finished",
        )


class ConversationNotFound(APIError):
    def __init__(self, id: str, param: str | None = None) -> None:
        super().__init__(
            404, f"Conversation with id '{shortened(id)}' not found.", param=param, code="conversation_not_found"
        )


class ItemNotFound(APIError):
    def __init__(self, id: str, param: str | None = None) -> None:
        super().__init__(404, f"Item with id '{shortened(id)}' not found.", param=param, code="item_not_found")


class ItemExists(InvalidRequest):
    def __init__(self, id: str, param: str | None = None) -> None:
        super().__init__(
            f"The conversation already has an item with the id '{shortened(id)}'.", param=param, code="item_exists"
        )


class HistoryTooLarge(InvalidRequest):
    """`param` is the field that names the history."""

    def __init__(self, param: str, limit: str) -> None:
        super().__init__(
            f"The stored items that '{param}' refers to exceed {limit}, this server's limit.",
            param=param,
            code="context_length_exceeded",
        )


class StoreQuotaExceeded(APIError):
    """The caller has stored as much as it may (status 403: trying again doesn't help)."""

    def __init__(self, limit: str) -> None:
        super().__init__(
            403,
            f"This caller has stored {limit}, this server's limit. Delete responses or conversations, or send "
            "`store: false`.",
            code="store_quota_exceeded",
        )


class Superseded(Exception):
    """The response is no longer this process' to write: it was deleted or cancelled, or another runner has it."""
