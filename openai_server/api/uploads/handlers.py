"""The handlers of `/v1/uploads`."""

from starlette.responses import Response

from openai_server.api.files.form import checked_name
from openai_server.api.files.handlers import FilesCall, handler
from openai_server.api.files.receiving import FileBody
from openai_server.api.files.request import FILE_PREFIX, default_seconds
from openai_server.api.uploads.answer import UploadPart, upload_object
from openai_server.api.uploads.request import UPLOAD_SECONDS, parse_completion, parse_new
from openai_server.core.file_errors import FileTooLarge, UploadEnded
from openai_server.http.json_response import JSONResponse
from openai_server.store.file_records import NewUpload
from openai_server.store.ids import new_id


async def _create(call: FilesCall) -> Response:
    request, _ = await call.services.bodies.read(parse_new, call.context)
    max_bytes = call.services.file_limits.upload_bytes
    if request.bytes > max_bytes:
        raise FileTooLarge(max_bytes, "bytes")
    created_at = call.services.clock()
    expiry = request.expires_after
    upload = NewUpload(
        id=new_id("upload_", created_at),
        owner=call.owner,
        created_at=created_at,
        expires_at=created_at + UPLOAD_SECONDS,
        filename=checked_name(request.filename, "filename"),
        purpose=request.purpose,
        mime_type=request.mime_type.replace("\0", "\ufffd"),
        n_bytes=request.bytes,
        file_seconds=default_seconds(request.purpose) if expiry is None else expiry.seconds,
    )
    return JSONResponse(upload_object(await call.files.create_upload(upload)))


async def _add_part(call: FilesCall) -> Response:
    id = call.parameter("upload_id")
    upload = await call.files.upload(call.owner, id)
    if upload.status != "pending":
        raise UploadEnded(id, upload.status)
    body = FileBody(call.context, file="data", max_bytes=call.services.file_limits.part_bytes)
    part = await body.receive(call.files, call.owner)
    created_at = call.services.clock()
    part_id = new_id("part_", created_at)
    await call.files.add_part(call.owner, id, part_id, created_at, part)
    return JSONResponse(UploadPart(id=part_id, created_at=int(created_at), upload_id=id))


async def _complete(call: FilesCall) -> Response:
    request, _ = await call.services.bodies.read(parse_completion, call.context)
    created_at = call.services.clock()
    file_id = new_id(FILE_PREFIX, created_at)
    completed = await call.files.complete_upload(
        call.owner, call.parameter("upload_id"), request.part_ids, file_id, created_at, request.md5
    )
    return JSONResponse(upload_object(completed))


async def _cancel(call: FilesCall) -> Response:
    return JSONResponse(upload_object(await call.files.cancel_upload(call.owner, call.parameter("upload_id"))))


create_upload = handler(_create)
add_part = handler(_add_part)
complete_upload = handler(_complete)
cancel_upload = handler(_cancel)
