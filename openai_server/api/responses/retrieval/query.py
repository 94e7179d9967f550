"""The queries of requests for stored objects. PURE."""

from collections.abc import Mapping
from typing import Literal

from openai_server.api.query import limit_of, number, order_of
from openai_server.api.responses.input.fields import INCLUDABLE
from openai_server.core.errors import InvalidRequest, UnsupportedParameter
from openai_server.store.records import PageRequest
from protos import contract

DEFAULT_LIMIT, MAX_LIMIT = 20, 100
"""Items of a page."""


def include_of(query: Mapping[str, str]) -> frozenset[str]:
    """The values of `include`. Raises InvalidRequest."""
    texts = [text for name in ("include", "include[]") if (text := query.get(name))]
    names = [name for text in texts for name in text.split(",")]
    for name in names:
        if name not in INCLUDABLE:
            raise InvalidRequest(
                f"'include' must have only values from {', '.join(INCLUDABLE)}.", param="include", code="invalid_value"
            )
    return frozenset(names)


def page_of(query: Mapping[str, str]) -> PageRequest:
    """Raises InvalidRequest."""
    order, limit = order_of(query), limit_of(query, default=DEFAULT_LIMIT, maximum=MAX_LIMIT)
    return PageRequest(limit=limit, order=order, after=query.get("after"))


def starting_after(query: Mapping[str, str]) -> int | None:
    """The number of the event after which the stream of a response begins; None: from its start. Raises
    InvalidRequest."""
    if (text := query.get("starting_after")) is None:
        return None
    if (value := number(text)) is None or value > contract.INT32_MAX:
        raise InvalidRequest(
            f"'starting_after' must be between 0 and {contract.INT32_MAX}.",
            param="starting_after",
            code="invalid_value",
        )
    return value


def flag(query: Mapping[str, str], name: Literal["stream", "include_obfuscation"]) -> bool:
    """The value of a boolean field; False if it is absent. Raises InvalidRequest."""
    match query.get(name, "false").lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise InvalidRequest(f"'{name}' must be true or false.", param=name, code="invalid_value")


def wants_stream(query: Mapping[str, str]) -> bool:
    """Whether the response is requested as a stream. Raises InvalidRequest."""
    if flag(query, "include_obfuscation"):
        raise UnsupportedParameter(
            "include_obfuscation", "'include_obfuscation' is not supported by this server, except as false."
        )
    stream = flag(query, "stream")
    if not stream and starting_after(query) is not None:
        raise InvalidRequest("'starting_after' is only allowed when 'stream' is true.", param="starting_after")
    return stream
