"""`/v1/models` in the form of Anthropic's API, for requests with its header `anthropic-version`. PURE.

Claude Code offers only models whose names begin with `claude` or `anthropic`, so aliases are listed too.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal

from msgspec import Struct

from openai_server.core.errors import InvalidRequest

VERSION_HEADER = b"anthropic-version"
"""The request header, in lower case, that selects this form."""
DEFAULT_LIMIT = 20
MAX_LIMIT = 1000
"""Models on one page."""
ACTIVE = "active"
LIFECYCLES = frozenset({ACTIVE, "deprecated", "retired"})
_MAX_TIME = 253_402_300_799
"""Unix seconds: the last second of the year 9999, after which RFC 3339 has no dates."""


class AnthropicModel(Struct, kw_only=True):
    type: Literal["model"] = "model"
    id: str
    display_name: str
    created_at: str
    """The time at which the model was loaded, in RFC 3339."""
    lifecycle: Literal["active"] = "active"
    max_input_tokens: int | None
    """The context length in tokens, answer included; None: unknown."""
    max_tokens: None = None
    capabilities: None = None
    deprecated_at: None = None
    retires_at: None = None
    line: None = None


class AnthropicModels(Struct, kw_only=True):
    data: list[AnthropicModel]
    has_more: bool
    first_id: str | None
    last_id: str | None


def anthropic_model(name: str, display_name: str, created: int, context_length: int | None) -> AnthropicModel:
    """`created` is in Unix seconds."""
    time = datetime.fromtimestamp(min(created, _MAX_TIME), UTC)
    return AnthropicModel(
        id=name,
        display_name=display_name,
        created_at=time.isoformat().replace("+00:00", "Z"),
        max_input_tokens=context_length,
    )


def page(models: Sequence[AnthropicModel], query: Mapping[str, str]) -> AnthropicModels:
    """The models on the page that the query describes. Raises InvalidRequest."""
    limit = _limit(query.get("limit"))
    after, before = query.get("after_id"), query.get("before_id")
    if after and before:
        raise InvalidRequest("'after_id' can't be combined with 'before_id'.", param="after_id")
    stages = set((query.get("lifecycle") or query.get("lifecycle[]") or ACTIVE).split(","))
    if not stages <= LIFECYCLES:
        raise InvalidRequest(f"'lifecycle' must be one of {', '.join(sorted(LIFECYCLES))}.", param="lifecycle")
    if ACTIVE not in stages:
        models = ()
    if before:
        rest = models[: _place(models, before, "before_id")]
        data = rest[-limit:]
    else:
        rest = models[_place(models, after, "after_id") + 1 :] if after else models
        data = rest[:limit]
    return AnthropicModels(
        data=list(data),
        has_more=len(data) < len(rest),
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )


def _limit(text: str | None) -> int:
    if not text:
        return DEFAULT_LIMIT
    limit = int(text) if text.isascii() and text.isdecimal() and len(text) <= len(str(MAX_LIMIT)) else 0
    if not 1 <= limit <= MAX_LIMIT:
        raise InvalidRequest(f"'limit' must be between 1 and {MAX_LIMIT}.", param="limit")
    return limit


def _place(models: Sequence[AnthropicModel], name: str, field: str) -> int:
    for place, model in enumerate(models):
        if model.id == name:
            return place
    raise InvalidRequest(f"'{field}' is not the id of a model.", param=field)
