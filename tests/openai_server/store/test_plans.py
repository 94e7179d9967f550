"""SQLite finds the rows of every statement with an index."""

import re
from collections.abc import Iterator, Mapping
from importlib import import_module
from pkgutil import iter_modules

import pytest
from sqlalchemy import Connection
from sqlalchemy.sql.elements import ClauseElement

from openai_server import store
from openai_server.store.tables import metadata
from tests.openai_server.store.stores import link_of, opened

MODULES = [import_module(f"{store.__name__}.{module.name}") for module in iter_modules(store.__path__)]
SMALL = {"runners", "owners", "leases", "secrets"}
"""Tables with a row for each process or owner."""
KINDS = ("select", "update", "delete", "compound_select")


def statements() -> Iterator[tuple[str, ClauseElement]]:
    for module in MODULES:
        for name, value in vars(module).items():
            for key, statement in value.items() if isinstance(value, Mapping) and name[0] == "_" else [("", value)]:
                if isinstance(statement, ClauseElement) and statement.__visit_name__ in KINDS and key != "postgresql":
                    yield f"{module.__name__.rpartition('.')[2]}.{name}{key and '-'}{key}", statement


STATEMENTS = dict(statements())


def plan(connection: Connection, statement: ClauseElement) -> list[str]:
    sql = re.sub(r"\(?__\[POSTCOMPILE_\w+\]\)?", "(1, 2)", str(statement.compile(dialect=connection.dialect)))
    rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", (1,) * sql.count("?"))
    return [row.detail for row in rows]


async def scans(statement: ClauseElement) -> list[str]:
    """The steps of the plan that read a whole table or index."""
    async with opened("sqlite://") as store:
        steps = await link_of(store).read("test", plan, statement)
    assert steps
    scanned = re.compile(rf"SCAN (?:{'|'.join(metadata.tables.keys() - SMALL)})(?:_\d+)?\b")  # with aliases
    return [step for step in steps if scanned.match(step)]


def test_statements_are_found() -> None:
    assert len(STATEMENTS) > 60
    assert {"pages._CHAIN_PAGE-asc", "sweeper._EXPIRED_RESPONSES", "runs._QUEUED"} <= STATEMENTS.keys()


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_reads_no_whole_table(name: str) -> None:
    assert await scans(STATEMENTS[name]) == []


async def test_a_scan_is_found() -> None:
    table = metadata.tables["responses"]
    assert await scans(table.select().where(table.c.model == "m")) == ["SCAN responses"]
    alias = table.alias()
    assert await scans(alias.select().where(alias.c.model == "m")) == ["SCAN responses_1"]
