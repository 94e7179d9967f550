"""Transactions on responses."""

from typing import Any

from sqlalchemy import Connection, bindparam, insert, null, select, update

from openai_server.core.store_errors import (
    ConversationNotFound,
    PreviousResponseNotFound,
    PreviousResponseUnfinished,
    ResponseNotFound,
    Superseded,
)
from openai_server.store.blobs import BlobRequest, ReadableBlobs
from openai_server.store.items import add_output, insert_items, read_items, reserve_positions, taken_ids
from openai_server.store.quota import Quota, count
from openai_server.store.records import CONTINUED, FINAL, Base, Ending, NewResponse, StoredResponse
from openai_server.store.tables import conversations, items, responses

_r, _c, _i = responses.c, conversations.c, items.c
_INSERT = insert(responses)
_PARENT = (
    select(_r.status)
    .where(_r.id == bindparam("response"), _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None))
    .with_for_update(read=True)
)
_CONVERSATION = select(_c.id).where(
    _c.id == bindparam("conversation"), _c.owner == bindparam("of_owner"), _c.deleted_at.is_(None)
)
_BEGUN = (
    select(_r.n_bytes)
    .where(
        *(_r.id == bindparam("response"), _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)),
        *(_r.status == "in_progress", _r.runner == bindparam("process")),
    )
    .with_for_update()
)
_END = (
    update(responses)
    .where(_r.id == bindparam("response"))
    .values(
        status=bindparam("new_status"),
        body=bindparam("new_body"),
        n_bytes=bindparam("size"),
        conversation_end=bindparam("end"),
        runner=null(),
    )
)
_RESPONSE = select(_r.id, _r.owner, _r.created_at, _r.model, _r.status, _r.body, _r.is_background).where(
    _r.id == bindparam("response"), _r.owner == bindparam("of_owner"), _r.deleted_at.is_(None)
)
_EXISTS = select(_r.id).where(_r.id == bindparam("response"))
_OUTPUT = (
    select(_i.id, _i.body, _i.blob)
    .where(_i.response_id == bindparam("response"), _i.is_output)
    .order_by(_i.response_position)
)


class Responses:
    """`retention` None: forever."""

    def __init__(self, quota: Quota, blobs: ReadableBlobs | None, *, runner: str, retention: float | None) -> None:
        self._quota, self._blobs, self._runner, self._retention = quota, blobs, runner, retention

    def begin(self, connection: Connection, response: NewResponse) -> None:
        _check_base(connection, response.owner, response.base)
        self._add(connection, response, status="in_progress", runner=self._runner, attempt=1)

    def queue(self, connection: Connection, response: NewResponse, request: bytes | BlobRequest) -> None:
        _check_base(connection, response.owner, response.base)
        is_blob = isinstance(request, BlobRequest)
        self._add(
            connection,
            response,
            status="queued",
            is_background=True,
            request=None if is_blob else request,
            request_blob=request.key if isinstance(request, BlobRequest) else None,
            n_bytes=len(response.body) + (request.n_bytes if isinstance(request, BlobRequest) else len(request)),
        )

    def finish_begun(self, connection: Connection, response: NewResponse, ending: Ending) -> None:
        parameters = {"response": response.id, "of_owner": response.owner, "process": self._runner}
        n_bytes = connection.scalar(_BEGUN, parameters)
        if n_bytes is None:
            raise Superseded
        connection.execute(
            _END,
            {
                "response": response.id,
                "new_status": ending.status,
                "new_body": ending.body,
                "size": len(ending.body),
                "end": response.conversation_end,
            },
        )
        added = add_output(
            *(connection, response.owner, response.id, ending.output),
            conversation_id=response.base.conversation_id if ending.status in CONTINUED else None,
            retention=self._retention,
        )
        count(connection, response.owner, n_bytes=len(ending.body) - n_bytes + added)

    def add_finished(self, connection: Connection, response: NewResponse, ending: Ending) -> None:
        if connection.scalar(_EXISTS, {"response": response.id}) is not None:
            raise Superseded
        if response.base.conversation_id is None or ending.status not in CONTINUED:
            _check_base(connection, response.owner, response.base)
            self._add(connection, response, status=ending.status, ending=ending)
            return
        conversation_id = response.base.conversation_id
        own = [*response.input, *ending.output]
        start = reserve_positions(connection, response.owner, conversation_id, len(own), self._retention)
        if start is None:
            raise ConversationNotFound(conversation_id, "conversation")
        self._add(
            *(connection, response),
            status=ending.status,
            ending=ending,
            conversation={
                "conversation_id": conversation_id,
                "position": start,
                "taken": taken_ids(connection, conversation_id, [item.id for item in own]),
            },
        )

    def _add(
        self,
        connection: Connection,
        response: NewResponse,
        *,
        ending: Ending | None = None,
        conversation: dict[str, Any] | None = None,
        **columns: Any,
    ) -> None:
        """Adds the row of the response and those of its items; `conversation` has the arguments of `insert_items` for
        items that are appended to one."""
        body = response.body if ending is None else ending.body
        row = {
            "id": response.id,
            "owner": response.owner,
            "created_at": response.created_at,
            "expires_at": None if self._retention is None else response.created_at + self._retention,
            "model": response.model,
            "body": body,
            "is_background": False,
            "parent": response.base.previous_response_id,
            "conversation_id": response.base.conversation_id,
            "conversation_end": response.conversation_end,
            "runner": None,
            "attempt": 0,
            "is_delivered": False,
            "request": None,
            "request_blob": None,
            "n_bytes": len(body),
            **columns,
        }
        connection.execute(_INSERT, row)
        in_conversation = conversation or {}
        n_bytes = insert_items(connection, response.owner, response.input, response_id=response.id, **in_conversation)
        if ending is not None:
            if in_conversation:
                in_conversation["position"] += len(response.input)
            n_bytes += insert_items(
                *(connection, response.owner, ending.output),
                response_id=response.id,
                first=len(response.input),
                is_output=True,
                **in_conversation,
            )
        self._quota.add(connection, response.owner, responses=1, n_bytes=row["n_bytes"] + n_bytes)

    def response(self, connection: Connection, owner: str, id: str) -> StoredResponse:
        row = connection.execute(_RESPONSE, {"response": id, "of_owner": owner}).one_or_none()
        if row is None:
            raise ResponseNotFound(id)
        output = read_items(self._blobs, connection.execute(_OUTPUT, {"response": id}))
        return StoredResponse(**row._mapping, output=output)


def _check_base(connection: Connection, owner: str, base: Base) -> None:
    """Raises what `Store.history` raises for this base, and keeps the previous response until the commit."""
    if (id := base.previous_response_id) is not None:
        status = connection.scalar(_PARENT, {"response": id, "of_owner": owner})
        if status is None:
            raise PreviousResponseNotFound(id)
        if status not in FINAL:
            raise PreviousResponseUnfinished(id, status)
    if (id := base.conversation_id) is not None and not _has_conversation(connection, owner, id):
        raise ConversationNotFound(id, "conversation")


def _has_conversation(connection: Connection, owner: str, id: str) -> bool:
    return connection.execute(_CONVERSATION, {"conversation": id, "of_owner": owner}).first() is not None
