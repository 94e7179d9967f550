"""The query of a request's URL. PURE."""

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
