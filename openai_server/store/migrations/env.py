"""Alembic runs this module. The connection, and its transaction, are those of `migrate.upgrade`."""

from alembic import context

from openai_server.store.tables import REVISION_TABLE, metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, version_table=REVISION_TABLE
)
context.run_migrations()
