"""The descriptions of `/v1/uploads`."""

from typing import Any

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Example, RequestType
from openai_server.api.examples import CREATED
from openai_server.api.files.descriptions import FILE_OBJECT, RECEIVES
from openai_server.api.files.parameters import UPLOAD_ID
from openai_server.api.uploads.answer import UploadObject, UploadPart
from openai_server.api.uploads.request import (
    NEW_UPLOAD_FIELDS,
    NEW_UPLOAD_PART_FIELDS,
    UPLOAD_COMPLETION_FIELDS,
    UPLOAD_SECONDS,
    NewUploadPart,
    NewUploadRequest,
    UploadCompletion,
)

_TAG = "Files"
_PART = "part_063f6b9e2d3a1c5b7e9f8a6c4d2e0b14"
_UPLOAD: dict[str, Any] = {
    "id": UPLOAD_ID.example,
    "object": "upload",
    "bytes": 5,
    "created_at": CREATED,
    "expires_at": CREATED + int(UPLOAD_SECONDS),
    "filename": "notes.txt",
    "purpose": "user_data",
    "status": "pending",
    "file": None,
}
_WRITES = endpoint.STORE | endpoint.OF_BODY

CREATE_UPLOAD = Description(
    tag=_TAG,
    summary="Begin a file that is sent in parts",
    requests=[RequestType("uploads", NewUploadRequest, NEW_UPLOAD_FIELDS)],
    examples={
        "text": Example(
            "A text file",
            {"bytes": 5, "filename": "notes.txt", "mime_type": "text/plain", "purpose": "user_data"},
        )
    },
    answers=[UploadObject],
    example=_UPLOAD,
    errors=_WRITES | {403},
)
ADD_PART = Description(
    tag=_TAG,
    summary="Send a part of an upload",
    parameters=[UPLOAD_ID],
    requests=[RequestType("uploads/{upload_id}/parts", NewUploadPart, NEW_UPLOAD_PART_FIELDS)],
    is_form=True,
    examples={"part": Example("A part", {"data": "hello"})},
    answers=[UploadPart],
    example={"id": _PART, "object": "upload.part", "created_at": CREATED, "upload_id": UPLOAD_ID.example},
    errors=RECEIVES,
)
COMPLETE_UPLOAD = Description(
    tag=_TAG,
    summary="Make a file of the parts of an upload",
    parameters=[UPLOAD_ID],
    requests=[RequestType("uploads/{upload_id}/complete", UploadCompletion, UPLOAD_COMPLETION_FIELDS)],
    examples={"part": Example("One part", {"part_ids": [_PART]})},
    answers=[UploadObject],
    example={**_UPLOAD, "status": "completed", "file": FILE_OBJECT},
    errors=_WRITES,
)
CANCEL_UPLOAD = Description(
    tag=_TAG,
    summary="Cancel an upload",
    parameters=[UPLOAD_ID],
    answers=[UploadObject],
    example={**_UPLOAD, "status": "cancelled"},
    errors=endpoint.STORE,
)
