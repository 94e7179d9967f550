"""The requests of `/v1/batches`. PURE."""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct

from openai_server.access.caps import Caps
from openai_server.api.files.request import EXPIRES_AFTER_FIELDS, ExpiresAfter, after_of
from openai_server.api.query import limit_of
from openai_server.api.responses.input.body import Metadata, check_metadata
from openai_server.api.schemas import Fields, convert, load, mapped
from openai_server.api.schemas.tables import Entries
from openai_server.core.errors import InvalidRequest
from openai_server.store.file_records import FilesRequest

PREFIX = "batch_"
DEFAULT_LIMIT, MAX_LIMIT = 20, 100
"""Batches of a page."""
WINDOW = r"^[1-9][0-9]{0,4}[mhd]$"
MAX_WINDOW = 30 * 86400.0
"""Seconds."""
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0}
_WINDOW = re.compile(WINDOW)


class BatchRequest(Struct, kw_only=True):
    completion_window: Annotated[str, Meta(pattern=WINDOW)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages"]
    input_file_id: str
    metadata: Metadata | None = None
    output_expires_after: ExpiresAfter | None = None


BATCH_FIELDS = Fields(
    mapped(BatchRequest), nested={"metadata": Entries(), "output_expires_after": EXPIRES_AFTER_FIELDS}
)


def parse_batch(body: bytes, caps: Caps) -> BatchRequest:
    """Raises InvalidRequest."""
    payload = load(body)
    BATCH_FIELDS.clean(payload)
    request = convert(payload, BatchRequest)
    check_metadata(request.metadata or {})
    window_seconds(request.completion_window)
    return request


def window_seconds(window: str) -> float:
    """The time that a batch has. Raises InvalidRequest."""
    seconds = int(window[:-1]) * _SECONDS[window[-1]] if _WINDOW.match(window) else 0.0
    if not 0 < seconds <= MAX_WINDOW:
        raise InvalidRequest(
            "'completion_window' must be '24h', or another number of minutes, hours or days up to 30 days, such as "
            "'30m', '12h' or '7d'.",
            param="completion_window",
            code="invalid_value",
        )
    return seconds


def page_of(query: Mapping[str, str]) -> FilesRequest:
    """Raises InvalidRequest."""
    limit = limit_of(query, default=DEFAULT_LIMIT, maximum=MAX_LIMIT)
    return FilesRequest(limit=limit, after=after_of(query, PREFIX, "a batch"))
