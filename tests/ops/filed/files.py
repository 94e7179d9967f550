"""Requests for files and uploads."""

import hashlib
from itertools import pairwise
from typing import Any

from tests.ops.filed.ledger import KnownFile
from tests.ops.filed.visitor import FILES, UPLOADS, FileVisitor
from tests.ops.stored.client import Cut
from tests.ops.stored.model import Deletion

MAX_BYTES = 400_000
MAX_PARTS = 5
PURPOSE = "user_data"
RECENT = 30
DELETED = (200, 409)
"""Statuses of a deletion; 409: a batch reads the file."""


def create_file(visitor: FileVisitor) -> None:
    send_file(visitor, visitor.new_content(MAX_BYTES), PURPOSE)


def send_file(visitor: FileVisitor, content: bytes, purpose: str, *, is_reserved: bool = False) -> KnownFile | None:
    """Creates a file. None: the server refused it, which is recorded. Raises Cut."""
    file = KnownFile(visitor.new_name(), content, purpose, is_reserved=is_reserved)
    visitor.ledger.add_file(file)
    visitor.moments.reached("body")
    reply = visitor.client.send_file(FILES, {"purpose": purpose}, content, filename=file.filename)
    if not visitor.expect(reply.status == 200, f"a new file: {reply}"):
        return None
    visitor.expect(reply.body["bytes"] == len(content), f"a file of {len(content)} bytes: {reply}")
    visitor.expect(reply.body["filename"] == file.filename, f"the name {file.filename!r}: {reply}")
    file.id = reply.body["id"]
    return file


def upload_in_parts(visitor: FileVisitor) -> None:
    """Sends parts, some of which aren't used, in any order; a part that was cut off is sent again."""
    content = visitor.new_content(MAX_BYTES)
    file = KnownFile(visitor.new_name(), content, PURPOSE)
    fields = {"bytes": len(content), "filename": file.filename, "mime_type": "text/plain", "purpose": PURPOSE}
    reply = visitor.client.call("POST", UPLOADS, fields)
    if not visitor.expect(reply.status == 200, f"a new upload: {reply}"):
        return
    id = reply.body["id"]
    pieces = _pieces(visitor, content)
    ids: dict[int, str] = {}
    for place in visitor.rng.sample(range(len(pieces)), len(pieces)):
        if (part_id := _add_part(visitor, id, pieces[place])) is None:
            return
        ids[place] = part_id
    if visitor.rng.random() < 0.3:
        _add_part(visitor, id, content[:1000])  # left over
    if visitor.rng.random() < 0.15:
        _cancel_upload(visitor, id, ids[0])
        return
    visitor.ledger.add_file(file)
    body: dict[str, Any] = {"part_ids": [ids[place] for place in range(len(pieces))]}
    if visitor.rng.random() < 0.5:
        body["md5"] = hashlib.md5(content, usedforsecurity=False).hexdigest()
    visitor.moments.reached("complete")
    reply, _ = visitor.client.until_answered("POST", f"{UPLOADS}/{id}/complete", body)
    if visitor.expect(reply.status == 200 and reply.body["status"] == "completed", f"a complete upload: {reply}"):
        file.id = reply.body["file"]["id"]
        visitor.expect(reply.body["file"]["bytes"] == len(content), f"its file: {reply}")


def _pieces(visitor: FileVisitor, content: bytes) -> list[bytes]:
    n = min(visitor.rng.randint(1, MAX_PARTS), len(content))
    cuts = sorted(visitor.rng.sample(range(1, len(content)), n - 1)) if n > 1 else []
    return [content[start:end] for start, end in pairwise([0, *cuts, len(content)])]


def _add_part(visitor: FileVisitor, id: str, piece: bytes) -> str | None:
    """Returns the id of the part. None: it was sent so often that the parts exceed the limit of the upload."""
    while True:
        visitor.moments.reached("part")
        try:
            reply = visitor.client.send_file(f"{UPLOADS}/{id}/parts", {}, piece, name="data")
        except Cut:
            visitor.counts["parts sent again"] += 1
            continue
        if reply.status == 200:
            return str(reply.body["id"])
        is_cut = visitor.counts["parts sent again"] > 0
        visitor.expect(is_cut and reply.status in (400, 413), f"a part of {id}: {reply}")
        return None


def _cancel_upload(visitor: FileVisitor, id: str, part_id: str) -> None:
    reply, is_cut = visitor.client.until_answered("POST", f"{UPLOADS}/{id}/cancel")
    is_done = reply.status == 200 and reply.body["status"] == "cancelled"
    if visitor.expect(is_done or (is_cut and reply.status == 400), f"a cancelled upload: {reply}"):
        visitor.ledger.cancelled_uploads.append(id)
    later, _ = visitor.client.until_answered("POST", f"{UPLOADS}/{id}/complete", {"part_ids": [part_id]})
    visitor.expect(later.status in (400, 404), f"completion of a cancelled upload: {later}")


def read_file(visitor: FileVisitor) -> None:
    """A file as a whole, or a range of it."""
    if (file := _any_file(visitor)) is None:
        return
    reply = visitor.client.call("GET", f"{FILES}/{file.id}")
    if visitor.rng.random() < 0.5:
        status, content = visitor.client.content(f"{FILES}/{file.id}/content")
        expected, good = file.content, 200
    else:
        first = visitor.rng.randrange(len(file.content))
        last = visitor.rng.randrange(first, len(file.content))
        status, content = visitor.client.content(f"{FILES}/{file.id}/content", first, last)
        expected, good = file.content[first : last + 1], 206
    if file.deletion is not Deletion.NONE and 404 in (reply.status, status):
        return
    visitor.expect(reply.status == 200, f"{file.id}: {reply}")
    visitor.expect(status == good, f"content of {file.id}: status {status}, not {good}")
    visitor.expect(content == expected, f"content of {file.id}: {len(content)} bytes, not the {len(expected)} sent")


def list_files(visitor: FileVisitor) -> None:
    """All files by pages: each one once, those that were announced before among them."""
    before = visitor.ledger.announced_files()
    limit = visitor.rng.choice([10, 100, 1000])
    try:
        listed = [file["id"] for file in visitor.client.pages(FILES, limit)]
    except LookupError as error:
        visitor.expect("503" in str(error), f"the files: {error}")
        return
    visitor.expect(len(set(listed)) == len(listed), "a file is listed twice")
    missing = {file.id for file in before} - set(listed)
    missing -= {file.id for file in before if file.deletion is not Deletion.NONE}
    visitor.expect(not missing, f"files that aren't listed: {missing}")


def delete_file(visitor: FileVisitor) -> None:
    candidates = [file for file in visitor.ledger.announced_files() if not file.is_reserved]
    if not candidates:
        return
    file = visitor.rng.choice(candidates[-RECENT:])
    with visitor.ledger.lock:
        if file.deletion is not Deletion.NONE:
            return
        file.deletion = Deletion.CUT
    visitor.moments.reached("delete")
    reply = visitor.client.call("DELETE", f"{FILES}/{file.id}")
    allowed = DELETED if file.purpose == "batch" else DELETED[:1]
    if visitor.expect(reply.status in allowed, f"deletion of {file.id}: {reply}"):
        file.deletion = Deletion.ANNOUNCED if reply.status == 200 else Deletion.NONE


def _any_file(visitor: FileVisitor) -> KnownFile | None:
    files = visitor.ledger.announced_files()
    return visitor.rng.choice(files[-visitor.rng.choice([3, 30, 1000]) :]) if files else None
