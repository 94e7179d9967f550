"""The tables of the store, and the clock of the database.

`migrations/` creates them; a test compares both. Times are Unix seconds.
"""

from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ColumnElement,
    Dialect,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    and_,
    text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

REVISION = "0002"
"""The newest migration. A database with a greater one was migrated by a newer sidecar."""
REVISION_TABLE = "anyserve_store_revision"

metadata = MetaData()


class Id(TypeDecorator[str]):
    """The id of an object. Any text that a client sends can be searched for: PostgreSQL has no NUL, so a character that
    no id has replaces it."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return value if value is None else value.replace("\0", "\ufffd")


responses = Table(
    "responses",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),  # NULL: never
    Column("model", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("is_background", Boolean, nullable=False),
    Column("parent", Id),  # the previous response
    Column("conversation_id", Id),  # the base; stays when the conversation is deleted
    Column("conversation_end", BigInteger),  # position of the last item of the conversation that it was generated from
    Column("runner", Text),  # of a response in progress
    Column("attempt", Integer, nullable=False),  # 0 until a runner takes it; 1 for one in the foreground
    Column("is_delivered", Boolean, nullable=False),  # events of this attempt were sent to a client
    Column("request", LargeBinary),  # of a background response that has not ended; NULL if it is in `request_blob`
    Column("request_blob", Text),
    Column("n_bytes", BigInteger, nullable=False),  # of body, request and events
    Column("deleted_at", Double),  # set while living responses continue it
)
conversations = Table(
    "conversations",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),  # NULL: never
    Column("metadata", LargeBinary, nullable=False),
    Column("next_position", BigInteger, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),  # of the metadata
    Column("deleted_at", Double),  # set while its items are being deleted
)
items = Table(
    "items",
    metadata,
    Column("pk", BigInteger().with_variant(Integer, "sqlite"), primary_key=True),
    Column("owner", Text, nullable=False),
    Column("id", Id, nullable=False),
    Column("response_id", Id),  # the response that it is input or output of; NULL: none, or it is deleted
    Column("response_position", Integer),  # input first
    Column("is_output", Boolean, nullable=False),
    Column("conversation_id", Id),
    Column("conversation_position", BigInteger),
    Column("body", LargeBinary),  # NULL if it is in `blob`, or deleted
    Column("blob", Text),
    Column("n_bytes", BigInteger, nullable=False),
    Column("deleted_at", Double),  # set for the place of an item that was removed from its conversation
)
events = Table(
    "events",
    metadata,
    Column("response_id", Id, primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("data", LargeBinary, nullable=False),
)
runners = Table(
    "runners",
    metadata,
    Column("id", Text, primary_key=True),
    Column("seen_at", Double, nullable=False),  # by the clock of the database
)
leases = Table(
    "leases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("holder", Text, nullable=False),
    Column("until", Double, nullable=False),  # by the clock of the database
)
secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)
owners = Table(
    "owners",
    metadata,
    Column("owner", Text, primary_key=True),
    Column("n_responses", BigInteger, nullable=False),
    Column("n_conversations", BigInteger, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),  # the sum of n_bytes of its responses, conversations and items
    # With defaults for the rows that an older sidecar adds.
    Column("n_files", BigInteger, nullable=False, server_default=text("0")),
    Column("n_file_bytes", BigInteger, nullable=False, server_default=text("0")),  # of files, and of pending uploads
)
files = Table(
    "files",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double),  # NULL: never
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
)
file_parts = Table(
    "file_parts",
    metadata,
    Column("file_id", Id, primary_key=True),
    Column("position", Integer, primary_key=True),
    Column("blob", Text, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
)
uploads = Table(
    "uploads",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False),
    Column("filename", Text, nullable=False),
    Column("purpose", Text, nullable=False),
    Column("mime_type", Text, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),  # as announced
    Column("file_seconds", Double),  # until the file expires; NULL: never
    Column("status", Text, nullable=False),
    Column("file_id", Id),  # of a completed one
)
upload_parts = Table(
    "upload_parts",
    metadata,
    Column("id", Id, primary_key=True),
    Column("upload_id", Id, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("blob", Text, nullable=False),
    Column("n_bytes", BigInteger, nullable=False),
)
batches = Table(
    "batches",
    metadata,
    Column("id", Id, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("endpoint", Text, nullable=False),
    Column("input_file_id", Id, nullable=False),
    Column("completion_window", Text, nullable=False),
    Column("deadline", Double, nullable=False),
    Column("metadata", LargeBinary, nullable=False),
    Column("output_seconds", Double),  # until the output files expire; NULL: the default
    Column("status", Text, nullable=False),
    Column("final_status", Text),  # the status that follows `finalizing`
    Column("in_progress_at", Double),
    Column("finalizing_at", Double),
    Column("completed_at", Double),
    Column("failed_at", Double),
    Column("expired_at", Double),
    Column("cancelling_at", Double),
    Column("cancelled_at", Double),
    Column("n_total", BigInteger, nullable=False),
    Column("n_completed", BigInteger, nullable=False),
    Column("n_failed", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("model", Text),
    Column("errors", LargeBinary),  # of the validation: a JSON array
    Column("output_file_id", Id),
    Column("error_file_id", Id),
    Column("runner", Text),  # the process that validates or finalizes it
    Column("kept_until", Double),  # of one that has ended; NULL: it stays
)
batch_lines = Table(
    "batch_lines",
    metadata,
    Column("batch_id", Id, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("custom_id", Id, nullable=False),
    Column("start", BigInteger, nullable=False),  # place in the input file
    Column("n_bytes", Integer, nullable=False),
    Column("status", Text, nullable=False),  # pending, running or ended
    Column("runner", Text),  # of a running one
    Column("attempt", Integer, nullable=False),  # 0 until a process takes it
    Column("is_error", Boolean, nullable=False),  # of an ended one
    Column("result", LargeBinary),  # of an ended one: its line in the output or error file
)


def _partial(name: str, *columns: Column[Any], where: ColumnElement[bool], is_unique: bool = False) -> None:
    Index(name, *columns, unique=is_unique, sqlite_where=where, postgresql_where=where)


_r, _c, _i = responses.c, conversations.c, items.c
_partial("responses_parent", _r.parent, where=_r.parent.is_not(None))
Index("responses_by_status", _r.status, _r.owner, _r.created_at)
_partial("responses_expire", _r.expires_at, where=and_(_r.deleted_at.is_(None), _r.expires_at.is_not(None)))
_partial("responses_deleted", _r.deleted_at, where=_r.deleted_at.is_not(None))
_partial("responses_request_blob", _r.request_blob, where=_r.request_blob.is_not(None))
_partial("conversations_expire", _c.expires_at, where=and_(_c.deleted_at.is_(None), _c.expires_at.is_not(None)))
_partial("conversations_deleted", _c.deleted_at, where=_c.deleted_at.is_not(None))
Index("items_by_id", _i.owner, _i.id)
_partial("items_of_response", _i.response_id, _i.response_position, where=_i.response_id.is_not(None))
_partial("items_of_conversation", _i.conversation_id, _i.conversation_position, where=_i.conversation_id.is_not(None))
_partial(
    *("items_once_in_conversation", _i.conversation_id, _i.id),
    where=and_(_i.conversation_id.is_not(None), _i.deleted_at.is_(None)),
    is_unique=True,
)
_partial("items_deleted", _i.deleted_at, where=_i.deleted_at.is_not(None))
_partial("items_blob", _i.blob, where=_i.blob.is_not(None))
_f, _u, _b, _l = files.c, uploads.c, batches.c, batch_lines.c
Index("files_of_owner", _f.owner, _f.id)
_partial("files_expire", _f.expires_at, where=_f.expires_at.is_not(None))
Index("file_parts_blob", file_parts.c.blob)
Index("uploads_expire", _u.expires_at)
Index("upload_parts_of_upload", upload_parts.c.upload_id)
Index("upload_parts_blob", upload_parts.c.blob)
Index("batches_of_owner", _b.owner, _b.id)
Index("batches_by_status", _b.status, _b.created_at)
Index("batches_of_input", _b.input_file_id)
_partial("batches_kept", _b.kept_until, where=_b.kept_until.is_not(None))
_partial("batch_lines_pending", _l.batch_id, _l.number, where=_l.status == "pending")
_partial("batch_lines_running", _l.batch_id, _l.number, where=_l.status == "running")


class now(FunctionElement[float]):
    """Unix seconds by the clock of the database at the start of the statement: the clocks of replicas don't matter."""

    type = Double()
    inherit_cache = True


@compiles(now, "sqlite")
def _now_of_sqlite(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(now, "postgresql")
def _now_of_postgres(element: now, compiler: SQLCompiler, **kw: Any) -> str:
    return "CAST(extract(epoch FROM statement_timestamp()) AS double precision)"
