"""Errors of `/v1/responses`. PURE.

Codex decides by them whether to retry. It matches the code `context_length_exceeded`, retries no `invalid_prompt`, and
looks in the message of a `rate_limit_exceeded` for the wait, such as "try again in 2s".
"""

import re
from collections.abc import Mapping

from openai_server.api.client_api import ClientApi, ErrorAnswer
from openai_server.core.errors import APIError, Error

_WAIT = re.compile(r"try again in\s*\d+(\.\d+)?\s*(s|ms)\b", re.IGNORECASE)
"""The wait in the form that Codex reads."""
_ADVICE = re.compile(r"; please try again( in [\d.ms]+)?\.$|\.$")
"""The end of a message."""


def message_of(error: APIError) -> str:
    """The message, with the wait in seconds if it is known and the client may retry."""
    wait = _seconds(error.headers)
    if not wait or _WAIT.search(error.message):
        return error.message
    return f"{_ADVICE.sub('', error.message)}; please try again in {wait}s."


def _seconds(headers: Mapping[str, str]) -> str:
    """The wait in seconds; empty if it isn't known."""
    milliseconds = headers.get("retry-after-ms", "")
    return f"{int(milliseconds) / 1000:g}" if milliseconds else headers.get("retry-after", "")


def _answer(error: APIError, _: str) -> ErrorAnswer:
    envelope: Error = error.envelope()
    envelope["error"]["message"] = message_of(error)
    return ErrorAnswer(error.status, envelope, error.headers)


RESPONSES_API = ClientApi(_answer, Error)
