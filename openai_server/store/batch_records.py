"""Batches and their lines, as they are passed to the store and returned from it. PURE.

Times are Unix seconds.
"""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from openai_server.store.file_records import Part

BatchStatus = Literal[
    "validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling", "cancelled"
]
BATCH_ENDINGS: frozenset[BatchStatus] = frozenset(("failed", "completed", "expired", "cancelled"))
UNFINISHED: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
MAX_LINE_ATTEMPTS = 3
"""Number of processes that may begin a line. When the last one of them has ended too, the line has failed."""


class NewBatch(Struct, frozen=True, kw_only=True):
    """A batch to run. `owner` is the id of the caller that made it."""

    id: str
    owner: str
    created_at: float
    endpoint: str
    """The URL of all lines, such as `/v1/chat/completions`."""
    input_file_id: str
    completion_window: str
    """As the client sent it, such as `24h`."""
    deadline: float
    """Time at which it expires."""
    metadata: bytes
    """A JSON object, or `null`."""
    output_seconds: float | None
    """Seconds from the creation of the output files to their expiry; None: the default of the store."""


class BatchTimes(Struct, frozen=True, kw_only=True):
    """When each status began; None: it hasn't."""

    in_progress: float | None = None
    finalizing: float | None = None
    completed: float | None = None
    failed: float | None = None
    expired: float | None = None
    cancelling: float | None = None
    cancelled: float | None = None


class BatchUsage(Struct, frozen=True, kw_only=True):
    """Tokens of all lines that were answered."""

    input: int = 0
    cached: int = 0
    output: int = 0
    reasoning: int = 0


class StoredBatch(NewBatch, frozen=True, kw_only=True):
    status: BatchStatus
    final_status: BatchStatus | None = None
    """The status that follows `finalizing`; None before that."""
    times: BatchTimes = BatchTimes()
    n_total: int = 0
    """Lines; 0 until they are validated."""
    n_completed: int = 0
    n_failed: int = 0
    usage: BatchUsage = BatchUsage()
    model: str | None = None
    """The model of the first line."""
    errors: bytes | None = None
    """A JSON array of the errors of the validation."""
    output_file_id: str | None = None
    error_file_id: str | None = None

    @property
    def ending(self) -> BatchStatus:
        """The status that follows when the output files of this batch are written."""
        return "cancelled" if self.status == "cancelling" else self.final_status or "completed"


class BatchesPage(Struct, frozen=True):
    batches: Sequence[StoredBatch]
    has_more: bool


class BatchLine(Struct, frozen=True):
    """A valid line of the input file: its place there, counted from 0, and the `n_bytes` bytes from `start` on."""

    number: int
    custom_id: str
    start: int
    n_bytes: int


class LineRun(Struct, frozen=True, kw_only=True):
    """A line that a process has taken."""

    id: str
    """Unique among the lines of all batches, for `jobs.runner`."""
    owner: str
    batch_id: str
    endpoint: str
    line: BatchLine
    attempt: int
    """1 for the first process, one more for each further one."""
    input: Sequence[Part]
    """The content of the input file."""


class EndedLine(Struct, frozen=True):
    """A line of a batch whose output files are written."""

    number: int
    custom_id: str
    has_ended: bool
    """False: the batch was cancelled, or has expired, before the line ended."""
    data: bytes | None
    """The line of the output or error file; None: it has not ended, or all processes that began it have ended."""


class LineResult(Struct, frozen=True, kw_only=True):
    """How a line ended."""

    run: LineRun
    is_error: bool
    """Whether `data` belongs to the error file."""
    data: bytes
    """The line of the output or error file, without a line break."""
    usage: BatchUsage = BatchUsage()
