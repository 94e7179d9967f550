"""Errors of a request that its pipeline reported. PURE."""

from collections.abc import Mapping
from typing import Any

from grpc import StatusCode

from anyserve_worker.core.errors import WorkerError
from protos import contract


class PipelineRequestError(WorkerError):
    def __init__(
        self,
        message: str,
        *,
        status: StatusCode,
        reason: str = "",
        tensor: str = "",
        part: str = "",
        retry_after: float | None = None,
    ) -> None:
        """`part`: the field of `body` that is wrong. `retry_after`: seconds; None: unknown."""
        super().__init__(message, tensor=tensor, part=part)
        self.status = status
        self.reason = reason
        self._retry_after = retry_after

    @property
    def details(self) -> dict[str, str]:
        if self._retry_after is None:
            return super().details
        return super().details | {contract.ERROR_RETRY_AFTER: f"{self._retry_after:g}"}


def reported_error(header: Mapping[str, Any]) -> WorkerError:
    """The error of an `error` frame."""
    return PipelineRequestError(
        header["message"],
        status=StatusCode[header["status"]],
        reason=header["reason"],
        tensor=header["tensor"],
        part=header["field"],
        retry_after=header["retry_after"],
    )
