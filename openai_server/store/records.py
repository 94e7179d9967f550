"""The objects in the store, as they are passed to it and returned from it. PURE.

The store is independent of APIs: bodies are JSON objects in UTF-8, which `api/` writes and reads. Times are Unix
seconds.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
FINAL: frozenset[Status] = frozenset(("completed", "incomplete", "failed", "cancelled"))
CONTINUED: frozenset[Status] = frozenset(("completed", "incomplete"))
"""Statuses of responses whose items are appended to their conversation."""
Order = Literal["asc", "desc"]


class Item(Struct, frozen=True):
    """One item of a conversation: a message, a call, its output, …"""

    id: str
    """Unique within a response's context and within a conversation."""
    body: bytes
    """The JSON object, its `id` included."""


class Base(Struct, frozen=True):
    """The object that a response continues; at most one of the two is set."""

    previous_response_id: str | None = None
    conversation_id: str | None = None


NOTHING = Base()


class History(Struct, frozen=True):
    """The items before a response's own input, oldest first."""

    items: Sequence[Item] = ()
    conversation_end: int | None = None
    """Position of the last item of the conversation that is part of it. None: the base is no conversation."""


NO_HISTORY = History()


class NewResponse(Struct, frozen=True, kw_only=True):
    """A response to keep. `owner` is the id of the caller that made it."""

    id: str
    owner: str
    created_at: float
    model: str
    body: bytes
    """The response object. Its `output` is empty: the output is kept as items."""
    base: Base = NOTHING
    conversation_end: int | None = None
    """`History.conversation_end` of the history that it was generated from."""
    input: Sequence[Item] = ()
    """The items of its own input, without the history."""


class Ending(Struct, frozen=True, kw_only=True):
    """How a response ended."""

    status: Status
    """One of FINAL."""
    body: bytes
    """The response object. Its `output` is empty."""
    output: Sequence[Item] = ()


class StoredResponse(Struct, frozen=True, kw_only=True):
    id: str
    owner: str
    created_at: float
    model: str
    status: Status
    body: bytes
    """The response object as it was last written: its `status` may be older than `status`, its `output` is empty."""
    output: Sequence[Item] = ()
    is_background: bool = False


class Conversation(Struct, frozen=True, kw_only=True):
    id: str
    created_at: float
    metadata: bytes
    """A JSON object."""


class PageRequest(Struct, frozen=True, kw_only=True):
    """A part of a list. `after`: id of the item before its first one, in the order of the list; None: from the start.
    That item may have been deleted since it was listed."""

    limit: int = 20
    order: Order = "desc"
    after: str | None = None


class Page(Struct, frozen=True):
    items: Sequence[Item]
    has_more: bool


# ---- Background runs

LEASE_SECONDS = 10.0
"""Time since its last heartbeat after which a process is treated as ended."""
MAX_ATTEMPTS = 3
"""Number of runners that may begin a response. It fails when the last one of them has ended too."""


class Run(Struct, frozen=True, kw_only=True):
    """A background response that a runner has taken."""

    id: str
    owner: str
    created_at: float
    request: bytes
    """The request as `api/` wrote it when it queued the response."""
    attempt: int
    """1 for the first runner, one more for each further one."""
    base: Base = NOTHING


class EventBatch(Struct, frozen=True):
    """Events of a background response, in the order in which they happened."""

    number: int
    """Counts the batches of an attempt from 0."""
    data: bytes
    """The events as `api/` wrote them."""


class Progress(Struct, frozen=True, kw_only=True):
    """How far a background response has come."""

    response: StoredResponse
    attempt: int
    """0 while it is queued for the first time."""
    batches: Sequence[EventBatch]
    """The batches after the one that the caller has, of this attempt."""


class Recovered(Struct, frozen=True):
    """Responses whose runner ended."""

    requeued: Sequence[str]
    failed: Sequence[str]


class Sizes(Struct, frozen=True):
    """Numbers of stored objects, for metrics."""

    responses: int
    conversations: int
    bytes: int
    queued: int
    """Background responses that wait for a runner."""
    running: int
    """Responses in progress."""
    batches: int
    """Batches that have not ended."""
    batch_lines: int
    """Lines of batches in progress that have not ended."""
