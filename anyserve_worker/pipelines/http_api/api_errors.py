"""Errors of an API, in its own form. PURE."""

from collections.abc import Callable
from typing import Any

from anyserve_worker.pipelines.core.errors import PipelineError
from anyserve_worker.pipelines.http_api.paths import JsonPath, Locations, as_text
from anyserve_worker.pipelines.http_api.schema import Errors
from anyserve_worker.pipelines.upstream.failures import ErrorDetails, ErrorKind, error_details, failure, kind_of


class ErrorForm:
    def __init__(self, form: Errors) -> None:
        """Raises ValueError."""
        self._message = Locations(form.message)
        self._code = Locations(form.code)
        self._field = JsonPath(form.field) if form.field else None
        self._kinds = form.kinds

    def is_error(self, value: Any) -> bool:
        """Whether an object of an answer is an error."""
        return any(found not in ("", False, [], {}) for found in self._message.values(value))

    def in_answer(self, value: Any, scrub: Callable[[str], str]) -> PipelineError:
        details = self.details(value)
        kind = self._kind(value) or ("failed" if details.status is None else kind_of(details.status))
        return failure(kind, None, details, scrub)

    def of_status(
        self, status: int, value: Any, scrub: Callable[[str], str], retry_after: float | None
    ) -> PipelineError:
        """The error for an answer with this HTTP status."""
        kind = self._kind(value) or self._kinds.get(str(status)) or kind_of(status)
        return failure(kind, status, self.details(value), scrub, retry_after)

    def details(self, value: Any) -> ErrorDetails:
        usual = error_details(value)
        message = next((text for text in self._message.values(value) if isinstance(text, str) and text), usual.message)
        field = self._field.first(value) if self._field else usual.field
        return ErrorDetails(message, field if isinstance(field, str) else "", usual.status, usual.code)

    def _kind(self, value: Any) -> ErrorKind | None:
        return next((self._kinds[code] for code in map(as_text, self._code.values(value)) if code in self._kinds), None)
