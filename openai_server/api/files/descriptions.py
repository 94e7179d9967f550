"""The descriptions of `/v1/files`."""

from typing import Any

from openai_server.api import endpoint
from openai_server.api.endpoint import Description, Example, RequestType
from openai_server.api.examples import CREATED
from openai_server.api.files.answer import DeletedFile, FileList, FileObject
from openai_server.api.files.parameters import FILE_ID, PAGE
from openai_server.api.files.request import NEW_FILE_FIELDS, NewFileForm

_TAG = "Files"
_READS = endpoint.STORE
FILE_OBJECT: dict[str, Any] = {
    "id": FILE_ID.example,
    "object": "file",
    "bytes": 5,
    "created_at": CREATED,
    "expires_at": None,
    "filename": "notes.txt",
    "purpose": "user_data",
    "status": "processed",
    "status_details": None,
}
RECEIVES = endpoint.STORE | endpoint.OF_BODY | {403, 507}
"""Error statuses of an endpoint that stores a file."""

CREATE_FILE = Description(
    tag=_TAG,
    summary="Store a file",
    requests=[RequestType("files", NewFileForm, NEW_FILE_FIELDS)],
    is_form=True,
    examples={"text": Example("A text file", {"file": "hello", "purpose": "user_data"})},
    answers=[FileObject],
    example=FILE_OBJECT,
    errors=RECEIVES,
)
LIST_FILES = Description(
    tag=_TAG,
    summary="The files of the caller",
    parameters=PAGE,
    is_list=True,
    answers=[FileList],
    example={
        "object": "list",
        "data": [FILE_OBJECT],
        "first_id": FILE_ID.example,
        "last_id": FILE_ID.example,
        "has_more": False,
    },
    errors=_READS,
)
GET_FILE = Description(
    tag=_TAG, summary="A file", parameters=[FILE_ID], answers=[FileObject], example=FILE_OBJECT, errors=_READS
)
DELETE_FILE = Description(
    tag=_TAG,
    summary="Delete a file",
    parameters=[FILE_ID],
    answers=[DeletedFile],
    example={"id": FILE_ID.example, "object": "file", "deleted": True},
    errors=_READS | {409},
)
GET_CONTENT = Description(
    tag=_TAG,
    summary="The content of a file",
    parameters=[FILE_ID],
    answers=[bytes],
    example="hello",
    errors=_READS | {416},
)
