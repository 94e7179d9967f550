"""Parameters of URLs of files and uploads, for the OpenAPI document. PURE."""

from openai_server.api.endpoint import Parameter
from openai_server.api.files.request import MAX_PAGE, OUTPUT_PURPOSES, PURPOSES

_TEXT = {"type": "string", "minLength": 1}

FILE_ID = Parameter("file_id", "Id of the file.", _TEXT, "file-063f6b9e2d3a1c5b7e9f8a6c4d2e0b13")
UPLOAD_ID = Parameter("upload_id", "Id of the upload.", _TEXT, "upload_063f6b9e2d3a1c5b7e9f8a6c4d2e0b13")
PAGE = (
    Parameter(
        "after", "Id of the file before the first one of the page; it may have been deleted.", _TEXT, FILE_ID.example
    ),
    Parameter(
        "limit",
        "Maximum number of files.",
        {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": MAX_PAGE},
        MAX_PAGE,
    ),
    Parameter("order", "`asc` begins with the oldest file.", {"enum": ["asc", "desc"], "default": "desc"}, "desc"),
    Parameter("purpose", "Only files with this purpose.", {"enum": [*PURPOSES, *OUTPUT_PURPOSES]}, "batch"),
)
