"""Turns an upstream's errors into errors of a request. PURE."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any, Literal

from anyserve_worker.pipelines.core.errors import (
    InvalidInput,
    PipelineError,
    TimedOut,
    TooManyRequests,
    UpstreamAway,
    UpstreamFailed,
)
from protos import contract

MAX_ERROR = 64 << 10
"""Bytes that are read of the body of an error."""
BUSY_STATUS = 429
AWAY_STATUSES = (503, 529)
"""529 is Anthropic's `overloaded_error`."""
_ACCESS = (401, 402, 403)
_FOR_OPERATOR = (*_ACCESS, 404)
_INVALID = (400, 422)
_TOO_LONG_CODES = ("context_length_exceeded", "exceed_context_size_error")
_STATUS = re.compile(r"[45][0-9]{2}")
_TOO_LONG = re.compile(r"(?i)context (?:length|size|window)|prompt is too long|too many (?:input )?tokens")
ErrorKind = Literal["invalid", "access", "busy", "away", "failed", "timeout"]
"""`access`: the upstream refused this server's key or account."""


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    message: str = ""
    field: str = ""
    """Path of the request's field that is wrong; empty: unknown."""
    status: int | None = None
    """HTTP status that the body contains; None: none."""
    code: str = ""
    """Code or type of the error, for programs."""


def error_body(data: bytes) -> Any:
    """The JSON value of the body of an error, or its text."""
    text = data.decode("utf-8-sig", "replace")
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else text


def error_details(body: Any) -> ErrorDetails:
    """Reads the forms of well-known servers: OpenAI's, a text, FastAPI's `detail`, Google's array."""
    if isinstance(body, list) and body:
        body = body[0]
    error = body
    if isinstance(body, dict):
        error = next((body[key] for key in ("error", "detail", "message", "errors") if body.get(key)), None)
    if isinstance(error, list) and error:  # pydantic's list of errors
        error = error[0]
    if isinstance(error, str):
        return ErrorDetails(error)
    if not isinstance(error, dict):
        return ErrorDetails()
    message = next((error[key] for key in ("message", "msg", "detail") if isinstance(error.get(key), str)), "")
    code = next((error[key] for key in ("code", "type") if isinstance(error.get(key), str)), "")
    return ErrorDetails(message, _field(error), _status(error.get("code"), error.get("status")), code)


def _field(error: Mapping[str, Any]) -> str:
    if isinstance(param := error.get("param"), str):
        return param if len(param) <= 200 and param.isprintable() else ""
    if isinstance(location := error.get("loc"), list):
        parts = [str(part) for part in location if part != "body"]
        return ".".join(parts)[:200] if all(part.isprintable() for part in parts) else ""
    return ""


def _status(*codes: Any) -> int | None:
    for code in codes:
        number = int(code) if isinstance(code, str) and _STATUS.fullmatch(code) else code
        if isinstance(number, int) and not isinstance(number, bool) and 400 <= number < 600:
            return number
    return None


def kind_of(status: int) -> ErrorKind:
    """The usual meaning of an HTTP status."""
    if status in _INVALID:
        return "invalid"
    if status in _ACCESS:
        return "access"
    if status == BUSY_STATUS:
        return "busy"
    return "away" if status in AWAY_STATUSES else "failed"


def failure(
    kind: ErrorKind,
    status: int | None,
    details: ErrorDetails,
    scrub: Callable[[str], str],
    retry_after: float | None = None,
) -> PipelineError:
    """The error of a request whose upstream failed. `status`: HTTP status; None: the error is within an answer. The
    upstream's text is left out if its access was refused, since that concerns only this server's operator."""
    text = scrub(details.message)
    number = "" if status is None else f" (HTTP {status})"
    end = f"{number}: {text}" if text else f"{number}."
    match kind:
        case "invalid":
            error = InvalidInput(text or f"The upstream refused the request{number}.", field=scrub(details.field))
            if details.code in _TOO_LONG_CODES or _TOO_LONG.search(text):
                error.reason = contract.REASON_CONTEXT_LENGTH
            return error
        case "access":
            return UpstreamFailed(f"The upstream refused this server's access{number}.")
        case "busy":
            return TooManyRequests("The upstream takes no more requests now" + end, retry_after=retry_after)
        case "away":
            return UpstreamAway("The upstream is overloaded or away" + end, retry_after=retry_after)
        case "timeout":
            return TimedOut("The upstream ran out of time" + end)
        case _:
            return UpstreamFailed("The upstream failed" + end)


def failure_in_answer(details: ErrorDetails, scrub: Callable[[str], str]) -> PipelineError:
    """The error for an error object in an answer that began with HTTP 200."""
    return failure("failed" if details.status is None else kind_of(details.status), None, details, scrub)


def log_text(status: int, details: ErrorDetails, scrub: Callable[[str], str]) -> str:
    """The line of the log for an answer with this HTTP status. The upstream's text is only part of it where it concerns
    the operator, since it may repeat a prompt."""
    line = f"the upstream answered with HTTP {status}"
    return f"{line}: {scrub(details.message)}" if status in _FOR_OPERATOR and details.message else line


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds after which to try again; None: unknown. `now`: Unix time in seconds."""
    for name, scale in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * scale
        except ValueError:
            continue
        if 0 <= seconds < 1e9:
            return seconds
    try:
        return max(0.0, parsedate_to_datetime(headers.get("retry-after", "")).timestamp() - now)
    except (ValueError, TypeError, OverflowError):
        return None
