"""The requests of `/v1/files`. PURE."""

from collections.abc import Mapping
from typing import Annotated, Literal, get_args

from msgspec import Meta, Struct

from openai_server.api.query import limit_of, number, order_of
from openai_server.api.schemas import Fields, mapped
from openai_server.api.schemas.tables import missing
from openai_server.core.errors import InvalidRequest
from openai_server.store.file_records import FilesRequest
from openai_server.store.ids import is_id

Purpose = Literal["assistants", "batch", "fine-tune", "vision", "user_data", "evals"]
PURPOSES: tuple[str, ...] = get_args(Purpose)
"""Purposes of files that clients send."""
OUTPUT_PURPOSES = ("assistants_output", "batch_output", "fine-tune-results")
FILE_PREFIX = "file-"
DAY = 86400
"""Seconds."""
MIN_SECONDS, MAX_SECONDS = 3600, 30 * DAY
"""Limits of `expires_after`."""
BATCH_SECONDS = 30 * DAY
"""Seconds after which a file with the purpose `batch` expires by default; others don't."""
MAX_PAGE = 10_000
ANCHOR, SECONDS = "expires_after[anchor]", "expires_after[seconds]"
FORM_FIELDS = ("purpose", ANCHOR, SECONDS)
"""The fields of the form besides `file`."""


class ExpiresAfter(Struct, kw_only=True):
    anchor: Literal["created_at"]
    seconds: Annotated[int, Meta(ge=MIN_SECONDS, le=MAX_SECONDS)]


EXPIRES_AFTER_FIELDS = Fields(mapped(ExpiresAfter))


class NewFileForm(Struct, kw_only=True, rename={"anchor": ANCHOR, "seconds": SECONDS}):
    """The form, for its description: `form.py` reads it."""

    file: Annotated[str, Meta(extra_json_schema={"format": "binary"})]
    purpose: Purpose
    anchor: Literal["created_at"] | None = None
    seconds: Annotated[int, Meta(ge=MIN_SECONDS, le=MAX_SECONDS)] | None = None


NEW_FILE_FIELDS = Fields(frozenset(("file", *FORM_FIELDS)))


class FileSettings(Struct, frozen=True):
    purpose: str
    seconds: int | None
    """Until the file expires; None: it doesn't."""


def settings_of(fields: Mapping[str, str]) -> FileSettings:
    """The settings in the fields of a form. Raises InvalidRequest."""
    if "purpose" not in fields:
        raise missing("purpose")
    purpose = fields["purpose"]
    if purpose not in PURPOSES:
        raise InvalidRequest(f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose", code="invalid_value")
    for name, other in ((ANCHOR, SECONDS), (SECONDS, ANCHOR)):
        if other in fields and name not in fields:
            raise missing(name)
    if SECONDS not in fields:
        return FileSettings(purpose, default_seconds(purpose))
    if fields[ANCHOR] != "created_at":
        raise InvalidRequest(f"'{ANCHOR}' must be 'created_at'.", param=ANCHOR, code="invalid_value")
    seconds = number(fields[SECONDS])
    if seconds is None or not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise InvalidRequest(
            f"'{SECONDS}' must be between {MIN_SECONDS} and {MAX_SECONDS}.", param=SECONDS, code="invalid_value"
        )
    return FileSettings(purpose, seconds)


def default_seconds(purpose: str) -> int | None:
    return BATCH_SECONDS if purpose == "batch" else None


def page_of(query: Mapping[str, str]) -> FilesRequest:
    """Raises InvalidRequest."""
    order, limit = order_of(query), limit_of(query, default=MAX_PAGE, maximum=MAX_PAGE)
    after = after_of(query, FILE_PREFIX, "a file")
    purpose = query.get("purpose")
    known = (*PURPOSES, *OUTPUT_PURPOSES)
    if purpose is not None and purpose not in known:
        raise InvalidRequest(f"'purpose' must be one of {', '.join(known)}.", param="purpose", code="invalid_value")
    return FilesRequest(limit=limit, order=order, after=after, purpose=purpose)


def after_of(query: Mapping[str, str], prefix: str, noun: str) -> str | None:
    """The id before a page of a list, whose ids begin with `prefix`; `noun` is what has them. Raises InvalidRequest."""
    after = query.get("after")
    if after is not None and not is_id(prefix, after):
        raise InvalidRequest(f"'after' must be the id of {noun}.", param="after", code="invalid_value")
    return after
