"""Fills a store with many copies of a few objects that a sidecar has stored, so that rows are as it writes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.databases import Database

BATCH = 20_000
"""Rows of one insertion."""
ID_DIGITS = 8
"""First hexadecimal digits of an id, which each copy replaces."""
SCATTER = 2_654_435_761
"""Odd number: its multiples, as 32 bits, are all different and in no order, as ids are."""
COUNT = """
INSERT INTO owners (owner, n_responses, n_conversations, n_bytes)
SELECT o.owner,
  (SELECT count(*) FROM responses r WHERE r.owner = o.owner),
  (SELECT count(*) FROM conversations c WHERE c.owner = o.owner),
  (SELECT coalesce(sum(r.n_bytes), 0) FROM responses r WHERE r.owner = o.owner)
  + (SELECT coalesce(sum(c.n_bytes), 0) FROM conversations c WHERE c.owner = o.owner)
  + (SELECT coalesce(sum(i.n_bytes), 0) FROM items i WHERE i.owner = o.owner)
FROM (SELECT DISTINCT owner FROM responses) o
"""
COUNTED = ("responses", "conversations", "items")
Row = dict[str, Any]


@dataclass(frozen=True)
class Copy:
    """`number` makes its ids different; `owner` is its owner, as the store identifies it."""

    number: int
    owner: str

    def id(self, id: str) -> str:
        prefix, _, digits = id.partition("_")
        return f"{prefix}_{self.number * SCATTER % (1 << 32):0{ID_DIGITS}x}{digits[ID_DIGITS:]}"


def fill(database: Database, copies: Iterable[Copy]) -> None:
    """Adds copies of everything that is stored, while no sidecar runs."""
    originals = {table: _rows(database, table) for table in COUNTED}
    ids = [row["id"] for rows in originals.values() for row in rows]
    pending: dict[str, list[Row]] = {table: [] for table in COUNTED}
    for copy in copies:
        new_ids = {id: copy.id(id) for id in ids}
        for table, rows in originals.items():
            pending[table] += [_copied(row, copy, new_ids) for row in rows]
            if len(pending[table]) >= BATCH:
                _insert(database, table, pending[table])
    for table, rows in pending.items():
        _insert(database, table, rows)
    database.execute("DELETE FROM owners")
    database.execute(COUNT)
    database.analyze()


def _rows(database: Database, table: str) -> list[Row]:
    columns = database.columns(table)
    names = [name for name in columns if name != "pk"]
    return [dict(zip(names, row, strict=True)) for row in database.rows(f"SELECT {', '.join(names)} FROM {table}")]


def _copied(row: Row, copy: Copy, new_ids: Mapping[str, str]) -> Row:
    copied = {name: new_ids.get(value, value) if isinstance(value, str) else value for name, value in row.items()}
    body = row.get("body")
    if body is not None:
        for id in (row["id"], row.get("parent")):
            if id is not None:
                body = body.replace(id.encode(), new_ids[id].encode())
        copied["body"] = body
    return {**copied, "owner": copy.owner}


def _insert(database: Database, table: str, rows: list[Row]) -> None:
    if rows:
        database.insert(table, list(rows[0]), [tuple(row.values()) for row in rows])
        rows.clear()
