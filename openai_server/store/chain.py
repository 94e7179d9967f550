"""The chain of a response and those before it, as a table of SQL."""

from typing import Any

from sqlalchemy import Row, bindparam, literal, select

from openai_server.store.tables import responses

_r = responses.c
ANY_DEPTH = 2**31 - 2
END = 2**62
"""Greater than all positions."""


def _chain() -> Any:
    """The response `:response` (depth 0) and those before it."""
    columns = (_r.id, _r.parent, _r.conversation_id, _r.conversation_end)
    chain = (
        select(*columns, literal(0).label("depth")).where(_r.id == bindparam("response")).cte("chain", recursive=True)
    )
    return chain.union_all(
        select(*columns, chain.c.depth + 1).where(_r.id == chain.c.parent, chain.c.depth < bindparam("max_depth"))
    )


chained = _chain()


def end_of(link: Row[Any]) -> int:
    """Returns the position up to which the conversation of a chain's oldest response is part of it: all of it if that
    response ended before it was generated."""
    return END if link.conversation_end is None else link.conversation_end
