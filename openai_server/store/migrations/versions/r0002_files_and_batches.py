"""Files, uploads and batches."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "batch_lines",
        sa.Column("batch_id", sa.Text(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("custom_id", sa.Text(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("n_bytes", sa.Integer(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("runner", sa.Text()),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("is_error", sa.Boolean(), nullable=False),
        sa.Column("result", sa.LargeBinary()),
        sa.PrimaryKeyConstraint("batch_id", "number"),
    )
    _create_partial_index("batch_lines_pending", "batch_lines", "batch_id", "number", where="status = 'pending'")
    _create_partial_index("batch_lines_running", "batch_lines", "batch_id", "number", where="status = 'running'")
    op.create_table(
        "batches",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("input_file_id", sa.Text(), nullable=False),
        sa.Column("completion_window", sa.Text(), nullable=False),
        sa.Column("deadline", sa.Double(), nullable=False),
        sa.Column("metadata", sa.LargeBinary(), nullable=False),
        sa.Column("output_seconds", sa.Double()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("final_status", sa.Text()),
        sa.Column("in_progress_at", sa.Double()),
        sa.Column("finalizing_at", sa.Double()),
        sa.Column("completed_at", sa.Double()),
        sa.Column("failed_at", sa.Double()),
        sa.Column("expired_at", sa.Double()),
        sa.Column("cancelling_at", sa.Double()),
        sa.Column("cancelled_at", sa.Double()),
        sa.Column("n_total", sa.BigInteger(), nullable=False),
        sa.Column("n_completed", sa.BigInteger(), nullable=False),
        sa.Column("n_failed", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text()),
        sa.Column("errors", sa.LargeBinary()),
        sa.Column("output_file_id", sa.Text()),
        sa.Column("error_file_id", sa.Text()),
        sa.Column("runner", sa.Text()),
        sa.Column("kept_until", sa.Double()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("batches_by_status", "batches", ["status", "created_at"])
    _create_partial_index("batches_kept", "batches", "kept_until", where="kept_until IS NOT NULL")
    op.create_index("batches_of_input", "batches", ["input_file_id"])
    op.create_index("batches_of_owner", "batches", ["owner", "id"])
    op.create_table(
        "file_parts",
        sa.Column("file_id", sa.Text(), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("file_id", "position"),
    )
    op.create_index("file_parts_blob", "file_parts", ["blob"])
    op.create_table(
        "files",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double()),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    _create_partial_index("files_expire", "files", "expires_at", where="expires_at IS NOT NULL")
    op.create_index("files_of_owner", "files", ["owner", "id"])
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("upload_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("blob", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("upload_parts_blob", "upload_parts", ["blob"])
    op.create_index("upload_parts_of_upload", "upload_parts", ["upload_id"])
    op.create_table(
        "uploads",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.Column("filename", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("mime_type", sa.Text(), nullable=False),
        sa.Column("n_bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_seconds", sa.Double()),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("file_id", sa.Text()),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("uploads_expire", "uploads", ["expires_at"])
    op.add_column("owners", sa.Column("n_files", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column("owners", sa.Column("n_file_bytes", sa.BigInteger(), server_default=sa.text("0"), nullable=False))


def _create_partial_index(name: str, table: str, *columns: str, where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, sqlite_where=condition, postgresql_where=condition)
