"""The query of a request's URL. PURE."""

from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl

from openai_server.core.errors import InvalidRequest
from openai_server.core.request_context import RequestContext

MAX_FIELDS = 64
"""Maximum fields of a query."""


def query_of(context: RequestContext) -> dict[str, str]:
    """The fields of the query that have a value; the values of a repeated one are separated by commas.

    Raises InvalidRequest for too many fields.
    """
    text: bytes = context.scope.get("query_string", b"")
    if not text:
        return {}
    try:
        pairs = parse_qsl(text.decode("latin-1"), max_num_fields=MAX_FIELDS, errors="replace")
    except ValueError:
        raise InvalidRequest(f"The query of the URL has more than {MAX_FIELDS} fields.") from None
    query: dict[str, str] = {}
    for name, value in pairs:
        query[name] = f"{query[name]},{value}" if name in query else value
    return query


def number(text: str) -> int | None:
    """None: the text is not a natural number of at most ten digits."""
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 10 else None


def order_of(query: Mapping[str, str]) -> Literal["asc", "desc"]:
    """The order of a list. Raises InvalidRequest."""
    match query.get("order", "desc"):
        case "asc":
            return "asc"
        case "desc":
            return "desc"
    raise InvalidRequest("'order' must be 'asc' or 'desc'.", param="order", code="invalid_value")


def limit_of(query: Mapping[str, str], *, default: int, maximum: int) -> int:
    """The number of entries in a page of a list. Raises InvalidRequest."""
    limit = default if (text := query.get("limit")) is None else number(text)
    if limit is None or not 1 <= limit <= maximum:
        raise InvalidRequest(f"'limit' must be between 1 and {maximum}.", param="limit", code="invalid_value")
    return limit
