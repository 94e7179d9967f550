"""The conventions that all endpoints of one client API share: the form of errors, and the header with the request's id.

PURE.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from openai_server.core.errors import APIError, Error


class ErrorAnswer(NamedTuple):
    """The response for an error."""

    status: int
    content: object
    """The JSON body."""
    headers: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class ClientApi:
    error: Callable[[APIError, str], ErrorAnswer]
    """Returns the response for an error, from the error and the request's id."""
    error_type: Any
    """The type of the JSON body, for the OpenAPI document."""
    request_id_headers: tuple[bytes, ...] = (b"x-request-id",)
    """Names of the response headers with the request's id."""


def _openai_error(error: APIError, _: str) -> ErrorAnswer:
    return ErrorAnswer(error.status, error.envelope(), error.headers)


OPENAI = ClientApi(_openai_error, Error)
