"""Errors about files, uploads and batches. PURE.

An object that belongs to another caller is the same as one that doesn't exist.
"""

from anyserve_common.text import shortened
from openai_server.core.errors import APIError, InvalidRequest


class NoFiles(APIError):
    """The server has no place for files."""

    def __init__(self) -> None:
        super().__init__(
            404,
            "This server keeps no files. Its operator can set the options --store and --blobs.",
            code="files_disabled",
        )


class FileNotFound(APIError):
    def __init__(self, id: str, param: str | None = None) -> None:
        super().__init__(404, f"No such File object: {shortened(id)}", param=param or "id", code="file_not_found")


class FileInUse(APIError):
    def __init__(self, id: str, batch_id: str) -> None:
        super().__init__(
            409,
            f"The file '{shortened(id)}' is the input of the batch '{batch_id}', which has not ended: cancel it, or "
            "wait for its end.",
            code="file_in_use",
        )


class FileTooLarge(APIError):
    """`max_bytes` is the limit of this server."""

    def __init__(self, max_bytes: int, param: str = "file") -> None:
        super().__init__(
            413, f"The file is larger than {max_bytes} bytes, this server's limit.", param=param, code="file_too_large"
        )


class FileTooSlow(APIError):
    """The client sends too slowly (status 408): fewer than `n_bytes` in these seconds."""

    def __init__(self, n_bytes: int, seconds: float) -> None:
        super().__init__(
            408,
            f"Neither {n_bytes} bytes nor the end of the request body arrived within {seconds:g} s.",
            code="request_timeout",
        )


class StorageFull(APIError):
    """The disk is full (status 507). Nothing that was stored before is lost."""

    def __init__(self) -> None:
        super().__init__(
            507, "This server has no room for the file at the moment. Nothing was stored.", code="insufficient_storage"
        )


class FileQuotaExceeded(APIError):
    """The caller has stored as much as it may (status 403: trying again doesn't help)."""

    def __init__(self, limit: str) -> None:
        super().__init__(
            403,
            f"The files of this caller would exceed {limit}, this server's limit. Delete files first.",
            code="file_quota_exceeded",
        )


class UploadNotFound(APIError):
    def __init__(self, id: str) -> None:
        super().__init__(
            404,
            f"No such Upload object: {shortened(id)}. An upload ends an hour after it was created.",
            param="upload_id",
            code="upload_not_found",
        )


class UploadEnded(InvalidRequest):
    """`status` is that of the upload."""

    def __init__(self, id: str, status: str) -> None:
        super().__init__(
            f"The upload '{shortened(id)}' is {status}: it can't be changed any more.",
            param="upload_id",
            code="upload_not_pending",
        )


class TooManyParts(InvalidRequest):
    def __init__(self, max_parts: int) -> None:
        super().__init__(
            f"The upload has {max_parts} parts, this server's limit.", param="upload_id", code="too_many_parts"
        )


class PartsTooLarge(InvalidRequest):
    """`n_bytes` is the announced size of the upload. A client may send each part twice, if it lost a response."""

    def __init__(self, n_bytes: int) -> None:
        super().__init__(
            f"The parts have more than twice the {n_bytes} bytes that the upload was created with.",
            param="data",
            code="upload_too_large",
        )


class WrongUploadSize(InvalidRequest):
    def __init__(self, n_bytes: int, expected: int) -> None:
        super().__init__(
            f"The parts have {n_bytes} bytes, but the upload was created with 'bytes': {expected}.",
            param="part_ids",
            code="wrong_upload_size",
        )


class BatchNotFound(APIError):
    def __init__(self, id: str) -> None:
        super().__init__(404, f"No such Batch object: {shortened(id)}", param="batch_id", code="batch_not_found")


class BatchQuotaExceeded(APIError):
    """The caller has as many unfinished batches as it may (status 429: some of them will end)."""

    def __init__(self, limit: int) -> None:
        super().__init__(
            429,
            f"This caller has {limit} batches that have not ended, this server's limit. Try again when one has ended.",
            code="batch_limit_exceeded",
        )
