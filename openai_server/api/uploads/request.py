"""The requests of `/v1/uploads`. PURE."""

from typing import Annotated

from msgspec import Meta, Struct

from openai_server.access.caps import Caps
from openai_server.api.files.form import MAX_NAME_CHARACTERS
from openai_server.api.files.request import EXPIRES_AFTER_FIELDS, ExpiresAfter, Purpose
from openai_server.api.schemas import Fields, convert, load, mapped

MAX_PARTS = 10_000
UPLOAD_SECONDS = 3600.0
"""Seconds after which an upload ends that isn't completed."""


class NewUploadRequest(Struct, kw_only=True):
    bytes: Annotated[int, Meta(ge=0, le=2**63 - 1)]
    filename: Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS)]
    mime_type: Annotated[str, Meta(max_length=256)]
    purpose: Purpose
    expires_after: ExpiresAfter | None = None


class UploadCompletion(Struct, kw_only=True):
    part_ids: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=MAX_PARTS)]
    md5: Annotated[str, Meta(pattern="^[0-9A-Fa-f]{32}$")] | None = None
    """In hexadecimal digits."""


class NewUploadPart(Struct, kw_only=True):
    """The form, for its description: `files/form.py` reads it."""

    data: Annotated[str, Meta(extra_json_schema={"format": "binary"})]


NEW_UPLOAD_FIELDS = Fields(mapped(NewUploadRequest), nested={"expires_after": EXPIRES_AFTER_FIELDS})
UPLOAD_COMPLETION_FIELDS = Fields(mapped(UploadCompletion))
NEW_UPLOAD_PART_FIELDS = Fields(mapped(NewUploadPart))


def parse_new(body: bytes, caps: Caps) -> NewUploadRequest:
    """Raises InvalidRequest."""
    payload = load(body)
    NEW_UPLOAD_FIELDS.clean(payload)
    return convert(payload, NewUploadRequest)


def parse_completion(body: bytes, caps: Caps) -> UploadCompletion:
    """Raises InvalidRequest."""
    payload = load(body)
    UPLOAD_COMPLETION_FIELDS.clean(payload)
    return convert(payload, UploadCompletion)
