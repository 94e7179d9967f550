"""The values of an ended request that its log line and its spans have. PURE."""

from collections.abc import Sequence
from typing import Protocol

from anyserve_worker.core.errors import WorkerError
from anyserve_worker.core.origin import Origin


class EndedRequest(Protocol):
    """Implemented by `engine.running_request.RunningGeneration` and `pipelines.running_answer.RunningAnswer`.

    Times are in nanoseconds of time.monotonic_ns(), 0 if they were not reached.
    """

    @property
    def kind(self) -> str:
        """`generation` or `chat`."""

    @property
    def origin(self) -> Origin: ...
    @property
    def outcome(self) -> str: ...
    @property
    def error(self) -> WorkerError | None: ...
    @property
    def finish_reasons(self) -> Sequence[str]: ...
    @property
    def n_prompt(self) -> int | None:
        """Prompt tokens; None, like the two below: unknown."""

    @property
    def n_cached(self) -> int | None: ...
    @property
    def n_generated(self) -> int | None: ...
    @property
    def submitted_ns(self) -> int: ...
    @property
    def started_ns(self) -> int:
        """Start of the first step, or of the pipeline's work."""

    @property
    def first_ns(self) -> int:
        """Time of the first output."""

    @property
    def ended_ns(self) -> int: ...
