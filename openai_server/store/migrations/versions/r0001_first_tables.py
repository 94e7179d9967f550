"""The first tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "conversations",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("next_position", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _create_partial_index("conversations_deleted", "conversations", "deleted_at", where="deleted_at IS NOT NULL")
    _create_partial_index(
        "conversations_expire", "conversations", "expires_at", where="deleted_at IS NULL AND expires_at IS NOT NULL"
    )
    op.create_table(
        "events",
        sa.Column("response_id", sa.Text(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("response_id", "attempt", "number"),
    )
    op.create_table(
        "items",
        sa.Column("pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("response_id", sa.Text(), nullable=True),
        sa.Column("response_position", sa.Integer(), nullable=True),
        sa.Column("is_output", sa.Boolean(), nullable=False),
        sa.Column("conversation_id", sa.Text(), nullable=True),
        sa.Column("conversation_position", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.LargeBinary(), nullable=True),
        sa.Column("blob", sa.Text(), nullable=True),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("pk"),
    )
    _create_partial_index("items_blob", "items", "blob", where="blob IS NOT NULL")
    op.create_index("items_by_id", "items", ["owner", "id"])
    _create_partial_index("items_deleted", "items", "deleted_at", where="deleted_at IS NOT NULL")
    _create_partial_index(
        "items_of_conversation",
        "items",
        "conversation_id",
        "conversation_position",
        where="conversation_id IS NOT NULL",
    )
    _create_partial_index(
        "items_of_response", "items", "response_id", "response_position", where="response_id IS NOT NULL"
    )
    _create_partial_index(
        "items_once_in_conversation",
        "items",
        "conversation_id",
        "id",
        where="conversation_id IS NOT NULL AND deleted_at IS NULL",
        unique=True,
    )
    op.create_table(
        "leases",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("until", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "owners",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("n_responses", sa.BigInteger(), nullable=False),
        sa.Column("n_conversations", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("owner"),
    )
    op.create_table(
        "responses",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=True),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("is_background", sa.Boolean(), nullable=False),
        sa.Column("parent", sa.Text(), nullable=True),
        sa.Column("conversation_id", sa.Text(), nullable=True),
        sa.Column("conversation_end", sa.BigInteger(), nullable=True),
        sa.Column("runner", sa.Text(), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("is_delivered", sa.Boolean(), nullable=False),
        sa.Column("request", sa.LargeBinary(), nullable=True),
        sa.Column("request_blob", sa.Text(), nullable=True),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("deleted_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )
    _create_partial_index("responses_deleted", "responses", "deleted_at", where="deleted_at IS NOT NULL")
    _create_partial_index(
        "responses_expire", "responses", "expires_at", where="deleted_at IS NULL AND expires_at IS NOT NULL"
    )
    _create_partial_index("responses_parent", "responses", "parent", where="parent IS NOT NULL")
    _create_partial_index("responses_request_blob", "responses", "request_blob", where="request_blob IS NOT NULL")
    op.create_index("responses_by_status", "responses", ["status", "owner", "created_at"])
    op.create_table(
        "secrets",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "runners",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def _create_partial_index(name: str, table: str, *columns: str, where: str, unique: bool = False) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=unique, sqlite_where=condition, postgresql_where=condition)
