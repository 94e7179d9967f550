"""Brings the tables of a database up to date."""

import logging
from pathlib import Path

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, select

from openai_server.store.errors import BadStore
from openai_server.store.tables import REVISION, REVISION_TABLE, metadata

log = logging.getLogger(__name__)

MIGRATIONS = Path(__file__).parent / "migrations"
_revisions = Table(REVISION_TABLE, MetaData(), Column("version_num", Text, primary_key=True))


def migrate(connection: Connection) -> None:
    """Migrates in the transaction of `connection`, which excludes other processes that migrate. Tables of a newer
    sidecar stay as they are. Raises BadStore for a database of another program."""
    revision = stored_revision(connection)
    if revision is not None and revision >= REVISION:
        if revision > REVISION:
            log.info("The store has the tables of a newer version: revision %s, not %s.", revision, REVISION)
        return
    if revision is None:
        _refuse_other_tables(connection)
    upgrade(connection)
    log.info("Migrated the store from revision %s to %s.", revision or "none", REVISION)


def stored_revision(connection: Connection) -> str | None:
    """None: the database is not a store yet."""
    if not inspect(connection).has_table(REVISION_TABLE):
        return None
    return connection.scalar(select(_revisions.c.version_num))


def _refuse_other_tables(connection: Connection) -> None:
    tables = set(inspect(connection).get_table_names())
    if connection.dialect.name != "sqlite":
        tables &= metadata.tables.keys()  # a database of PostgreSQL may be shared with other programs
    if tables:
        raise BadStore(f"The database has tables of another program: {', '.join(sorted(tables)[:5])}")


def upgrade(connection: Connection) -> None:
    """Runs the migrations that the database lacks. Imports alembic, which takes 100 ms, only here."""
    logging.getLogger("alembic").setLevel(logging.WARNING)  # it logs each plugin
    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    logging.getLogger("alembic").setLevel(logging.WARNING)  # `migrate` logs the revisions
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(MIGRATIONS))
    config.set_main_option("path_separator", "os")
    script = ScriptDirectory.from_config(config)
    with EnvironmentContext(config, script, fn=lambda revision, _: script._upgrade_revs("head", revision)):
        script.run_env()
