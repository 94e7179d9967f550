"""The lines of output and error files. PURE."""

import hashlib
from collections.abc import Mapping

import orjson

from openai_server.api.lines import LineAnswer
from openai_server.store.batch_records import BatchStatus, EndedLine

LOST = ("runner_lost", "The server processes that ran this request ended before the request did.")
NOT_RUN: Mapping[BatchStatus, tuple[str, str]] = {
    "cancelled": ("batch_cancelled", "This request was not executed: the batch was cancelled."),
    "expired": ("batch_expired", "This request could not be executed before the completion window expired."),
}
"""Code and message of lines that a batch has left undone, by its final status."""


def line_key(batch_id: str, number: int) -> str:
    """The end of all ids that are made for a line."""
    return hashlib.sha256(f"{batch_id}/{number}".encode()).hexdigest()[:32]


def answered(batch_id: str, number: int, custom_id: str, answer: LineAnswer) -> bytes:
    """The line for a response, without a line break."""
    response = {"status_code": answer.status, "request_id": answer.request_id, "body": orjson.Fragment(answer.body)}
    return _line(batch_id, number, custom_id, response, None)


def unanswered(batch_id: str, line: EndedLine, ending: BatchStatus) -> bytes:
    """The line for a request without a response. `ending` is the final status of the batch."""
    code, message = LOST if line.has_ended else NOT_RUN[ending]
    return _line(batch_id, line.number, line.custom_id, None, {"code": code, "message": message})


def _line(batch_id: str, number: int, custom_id: str, response: object, error: object) -> bytes:
    return orjson.dumps(
        {"id": f"batch_req_{line_key(batch_id, number)}", "custom_id": custom_id, "response": response, "error": error}
    )
