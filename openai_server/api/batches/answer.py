"""Answers of `/v1/batches`. PURE."""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import orjson
from msgspec import Struct

from openai_server.api.batches.checking import LineError
from openai_server.store.batch_records import BatchesPage, BatchStatus, BatchUsage, StoredBatch


class Errors(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: Sequence[LineError]


class RequestCounts(Struct, kw_only=True):
    total: int
    completed: int
    failed: int


class InputTokensDetails(Struct, kw_only=True):
    cached_tokens: int


class OutputTokensDetails(Struct, kw_only=True):
    reasoning_tokens: int


class Usage(Struct, kw_only=True):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class Batch(Struct, kw_only=True):
    """Times are Unix seconds; None: not (yet)."""

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    model: str | None
    errors: Errors | None
    input_file_id: str
    completion_window: str
    status: BatchStatus
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    in_progress_at: int | None
    expires_at: int
    finalizing_at: int | None
    completed_at: int | None
    failed_at: int | None
    expired_at: int | None
    cancelling_at: int | None
    cancelled_at: int | None
    request_counts: RequestCounts
    usage: Usage
    metadata: Mapping[str, str] | None


class BatchList(Struct, kw_only=True):
    object: Literal["list"] = "list"
    data: Sequence[Batch]
    first_id: str | None
    last_id: str | None
    has_more: bool


def batch(stored: StoredBatch) -> Batch:
    times = stored.times
    return Batch(
        id=stored.id,
        endpoint=stored.endpoint,
        model=stored.model,
        errors=_errors(stored.errors),
        input_file_id=stored.input_file_id,
        completion_window=stored.completion_window,
        status=stored.status,
        output_file_id=stored.output_file_id,
        error_file_id=stored.error_file_id,
        created_at=int(stored.created_at),
        in_progress_at=_seconds(times.in_progress),
        expires_at=int(stored.deadline),
        finalizing_at=_seconds(times.finalizing),
        completed_at=_seconds(times.completed),
        failed_at=_seconds(times.failed),
        expired_at=_seconds(times.expired),
        cancelling_at=_seconds(times.cancelling),
        cancelled_at=_seconds(times.cancelled),
        request_counts=RequestCounts(total=stored.n_total, completed=stored.n_completed, failed=stored.n_failed),
        usage=_usage(stored.usage),
        metadata=orjson.loads(stored.metadata),
    )


def batch_list(page: BatchesPage) -> BatchList:
    batches = [batch(stored) for stored in page.batches]
    return BatchList(
        data=batches,
        first_id=batches[0].id if batches else None,
        last_id=batches[-1].id if batches else None,
        has_more=page.has_more,
    )


def _errors(errors: bytes | None) -> Errors | None:
    return None if errors is None else Errors(data=msgspec.json.decode(errors, type=list[LineError]))


def _usage(usage: BatchUsage) -> Usage:
    return Usage(
        input_tokens=usage.input,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached),
        output_tokens=usage.output,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.reasoning),
        total_tokens=usage.input + usage.output,
    )


def _seconds(time: float | None) -> int | None:
    return None if time is None else int(time)
