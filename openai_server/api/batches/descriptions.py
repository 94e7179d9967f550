"""The descriptions of `/v1/batches`."""

from typing import Any

from openai_server.api import endpoint
from openai_server.api.batches.answer import Batch, BatchList
from openai_server.api.batches.request import BATCH_FIELDS, DEFAULT_LIMIT, MAX_LIMIT, BatchRequest
from openai_server.api.endpoint import Description, Example, Parameter, RequestType
from openai_server.api.examples import CREATED, MODEL
from openai_server.api.files.parameters import FILE_ID

_TAG = "Batches"
_TEXT = {"type": "string", "minLength": 1}
_ID = "batch_064e3c8f2a1b4c5d6e7f8091a2b3c4d5"
_FILE_ID = FILE_ID.example
_METADATA = {"job": "nightly"}
BATCH_ID = Parameter("batch_id", "Id of the batch.", _TEXT, _ID)
_PAGE = (
    Parameter("after", "Id of the batch before the first one of the page.", _TEXT, _ID),
    Parameter(
        "limit",
        "Maximum number of batches.",
        {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
        DEFAULT_LIMIT,
    ),
)
_BATCH: dict[str, Any] = {
    "id": _ID,
    "object": "batch",
    "endpoint": "/v1/chat/completions",
    "model": None,
    "errors": None,
    "input_file_id": _FILE_ID,
    "completion_window": "24h",
    "status": "validating",
    "output_file_id": None,
    "error_file_id": None,
    "created_at": CREATED,
    "in_progress_at": None,
    "expires_at": CREATED + 86400,
    "finalizing_at": None,
    "completed_at": None,
    "failed_at": None,
    "expired_at": None,
    "cancelling_at": None,
    "cancelled_at": None,
    "request_counts": {"total": 0, "completed": 0, "failed": 0},
    "usage": {
        "input_tokens": 0,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 0,
    },
    "metadata": _METADATA,
}
_COMPLETED = {
    **_BATCH,
    "model": MODEL,
    "status": "completed",
    "output_file_id": "file-064e3c8f5b2c3d4e5f60718293a4b5c6",
    "in_progress_at": CREATED + 1,
    "finalizing_at": CREATED + 60,
    "completed_at": CREATED + 61,
    "request_counts": {"total": 100, "completed": 100, "failed": 0},
}
_CANCELLING = {**_BATCH, "status": "cancelling", "in_progress_at": CREATED + 1, "cancelling_at": CREATED + 30}

CREATE_BATCH = Description(
    tag=_TAG,
    summary="Create a batch",
    requests=[RequestType("batches", BatchRequest, BATCH_FIELDS)],
    examples={
        "chats": Example(
            "Chat completions",
            {
                "input_file_id": _FILE_ID,
                "endpoint": "/v1/chat/completions",
                "completion_window": "24h",
                "metadata": _METADATA,
            },
        )
    },
    answers=[Batch],
    example=_BATCH,
    errors=endpoint.STORE | endpoint.OF_BODY,
)
LIST_BATCHES = Description(
    tag=_TAG,
    summary="The batches of the caller, newest first",
    parameters=_PAGE,
    is_list=True,
    answers=[BatchList],
    example={"object": "list", "data": [_COMPLETED], "first_id": _ID, "last_id": _ID, "has_more": False},
    errors=endpoint.STORE,
)
GET_BATCH = Description(
    tag=_TAG,
    summary="A batch",
    parameters=[BATCH_ID],
    answers=[Batch],
    example=_COMPLETED,
    errors=endpoint.STORE,
)
CANCEL_BATCH = Description(
    tag=_TAG,
    summary="Cancel a batch",
    parameters=[BATCH_ID],
    answers=[Batch],
    example=_CANCELLING,
    errors=endpoint.STORE,
)
