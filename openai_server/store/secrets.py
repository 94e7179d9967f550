"""Secrets that all processes with the store share."""

from sqlalchemy import Connection, bindparam, select
from sqlalchemy.dialects import postgresql, sqlite

from openai_server.store.tables import secrets

_ADD = {
    dialect: insert(secrets).values(name=bindparam("secret"), value=bindparam("proposed")).on_conflict_do_nothing()
    for dialect, insert in (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
}
_SELECT = select(secrets.c.value).where(secrets.c.name == bindparam("secret"))


def secret(connection: Connection, name: str, proposal: str) -> str:
    """The secret with this name. The first process sets it to its `proposal`."""
    connection.execute(_ADD[connection.dialect.name], {"secret": name, "proposed": proposal})
    value: str = connection.execute(_SELECT, {"secret": name}).scalar_one()
    return value
