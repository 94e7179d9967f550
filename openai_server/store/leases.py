"""Leases by the clock of the database: heartbeats of runners, and tasks that one process at a time has."""

from sqlalchemy import Connection, bindparam, or_, update
from sqlalchemy.dialects import postgresql, sqlite

from openai_server.store.tables import leases, now, runners

_INSERTS = (("sqlite", sqlite.insert), ("postgresql", postgresql.insert))
_SEE = {
    dialect: insert(runners)
    .values(id=bindparam("runner"), seen_at=now())
    .on_conflict_do_update(index_elements=[runners.c.id], set_={"seen_at": now()})
    for dialect, insert in _INSERTS
}
_ADD = {
    dialect: insert(leases).values(name=bindparam("lease"), holder="", until=0.0).on_conflict_do_nothing()
    for dialect, insert in _INSERTS
}
_TAKE = (
    update(leases)
    .where(leases.c.name == bindparam("lease"), or_(leases.c.holder == bindparam("process"), leases.c.until < now()))
    .values(holder=bindparam("process"), until=now() + bindparam("seconds"))
)


def see_runner(connection: Connection, runner: str) -> None:
    """Writes the heartbeat of a runner."""
    connection.execute(_SEE[connection.dialect.name], {"runner": runner})


def take_lease(connection: Connection, name: str, process: str, seconds: float) -> bool:
    """Takes or renews a lease. False: another process has it."""
    connection.execute(_ADD[connection.dialect.name], {"lease": name})
    parameters = {"lease": name, "process": process, "seconds": seconds}
    return connection.execute(_TAKE, parameters).rowcount == 1
