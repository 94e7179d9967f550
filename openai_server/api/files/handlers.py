"""The handlers of `/v1/files`."""

from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

from starlette.responses import Response

from openai_server.api.endpoint import Handler
from openai_server.api.files.answer import DeletedFile, file_list, file_object
from openai_server.api.files.content import ContentResponse, bare, content_headers, is_head
from openai_server.api.files.ranges import Part, etag_of, is_unchanged, part_of
from openai_server.api.files.receiving import FileBody
from openai_server.api.files.request import FILE_PREFIX, FORM_FIELDS, page_of, settings_of
from openai_server.api.query import query_of
from openai_server.api.services import Services
from openai_server.core.file_errors import NoFiles
from openai_server.core.request_context import RequestContext
from openai_server.core.store_errors import StoreAway
from openai_server.http.json_response import JSONResponse
from openai_server.store.file_records import NewFile
from openai_server.store.file_store import FileStore
from openai_server.store.ids import new_id


class FilesCall(NamedTuple):
    """A request for files or uploads."""

    services: Services
    files: FileStore
    context: RequestContext

    @property
    def owner(self) -> str:
        return self.context.access.owner

    def parameter(self, name: str) -> str:
        """A parameter of the path."""
        return self.context.parameters[name]

    @property
    def query(self) -> Mapping[str, str]:
        return query_of(self.context)


def handler(answer: Callable[[FilesCall], Awaitable[Response]]) -> Callable[[Services], Handler]:
    def create(services: Services) -> Handler:
        async def handle(context: RequestContext) -> Response:
            call = FilesCall(services, files_of(services), context)
            context.access.count_request()
            return await answer(call)

        return handle

    return create


def files_of(services: Services) -> FileStore:
    """Raises NoFiles."""
    if services.store is None or not services.store.files.has_blobs:
        raise NoFiles
    return services.store.files


async def _create(call: FilesCall) -> Response:
    body = FileBody(call.context, file="file", fields=FORM_FIELDS, max_bytes=call.services.file_limits.file_bytes)
    part = await body.receive(call.files, call.owner, settings_of)
    settings = settings_of(body.form.fields)
    created_at = call.services.clock()
    file = NewFile(
        id=new_id(FILE_PREFIX, created_at),
        owner=call.owner,
        created_at=created_at,
        expires_at=None if settings.seconds is None else created_at + settings.seconds,
        filename=body.form.end(),
        purpose=settings.purpose,
        parts=[part],
    )
    return JSONResponse(file_object(await call.files.create(file)))


async def _list(call: FilesCall) -> Response:
    return JSONResponse(file_list(await call.files.list(call.owner, page_of(call.query))))


async def _get(call: FilesCall) -> Response:
    return JSONResponse(file_object(await call.files.get(call.owner, call.parameter("file_id"))))


async def _delete(call: FilesCall) -> Response:
    id = call.parameter("file_id")
    await call.files.delete(call.owner, id)
    return JSONResponse(DeletedFile(id=id))


async def _content(call: FilesCall) -> Response:
    id = call.parameter("file_id")
    file = await call.files.get(call.owner, id)
    request_headers, etag = call.context.scope["headers"], etag_of(file.id)
    headers = content_headers(file)
    if is_unchanged(request_headers, etag):
        return bare(304, [header for header in headers if header[0] == b"etag"])
    if is_head(call.context):  # a range has a meaning for GET alone
        return bare(200, [*headers, (b"content-length", b"%d" % file.n_bytes)])
    part: Part = part_of(request_headers, file.n_bytes, etag)
    pieces = call.files.content(file.parts, part.start, part.end)
    try:
        first = await anext(pieces, b"")
    except StoreAway:
        await call.files.get(call.owner, id)  # raises FileNotFound if it was deleted meanwhile
        raise
    return ContentResponse(file, part, first, pieces)


create_file = handler(_create)
list_files = handler(_list)
get_file = handler(_get)
delete_file = handler(_delete)
get_content = handler(_content)
