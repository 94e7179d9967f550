"""`/v1/files` and `/v1/uploads`."""

import asyncio
import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from openai_server.core.store_errors import StoreAway
from openai_server.store import blob_folder
from openai_server.store.errors import BlobsFull
from openai_server.store.link import Link
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import Reply, Sidecar, running
from tests.wire.stored_objects import MEMORY, form

DAY = 86400
UPLOAD = {"bytes": 6, "filename": "f.bin", "mime_type": "text/plain", "purpose": "user_data"}


def serving(**config: Any) -> Any:
    return running(FakeWorker(), **{"store": MEMORY, **config})


async def create(
    sidecar: Sidecar,
    content: bytes = b"hello",
    fields: Mapping[str, str] = MappingProxyType({}),
    *,
    filename: str = "f.txt",
    key: str = "",
) -> Reply:
    body, headers = form({"purpose": "user_data", **fields}, filename=filename, file=content)
    return await sidecar.send("POST", "/v1/files", body, {**headers, **authorization(key)})


def authorization(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


async def add_part(sidecar: Sidecar, upload_id: str, data: bytes) -> Reply:
    return await sidecar.send("POST", f"/v1/uploads/{upload_id}/parts", *form(data=data))


def blobs_of(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("??/*") if path.is_file()]


# ---- Files


async def test_a_file() -> None:
    content = bytes(range(256)) * 9000
    async with serving(max_body_bytes=100, max_inflight_body_bytes=100) as sidecar:
        reply = await create(sidecar, content, filename="\u00fc/\u6587.bin")
        assert reply.status == 200
        file = reply.json
        assert abs(file["created_at"] - time.time()) < 60
        assert file == {
            "id": file["id"],
            "object": "file",
            "bytes": len(content),
            "created_at": file["created_at"],
            "expires_at": None,
            "filename": "\u00fc/\u6587.bin",
            "purpose": "user_data",
            "status": "processed",
            "status_details": None,
        }
        path = f"/v1/files/{file['id']}"
        assert (await sidecar.get(path)).json == file
        listed = {"object": "list", "data": [file], "first_id": file["id"], "last_id": file["id"], "has_more": False}
        assert (await sidecar.get("/v1/files")).json == listed
        whole = await sidecar.get(f"{path}/content")
        assert whole.body == content
        assert {name: whole.headers[name] for name in CONTENT_HEADERS} == {
            "content-type": "application/octet-stream",
            "content-disposition": "attachment; filename=\"___.bin\"; filename*=UTF-8''%C3%BC_%E6%96%87.bin",
            "x-content-type-options": "nosniff",
            "accept-ranges": "bytes",
            "etag": f'"{file["id"]}"',
            "content-length": str(len(content)),
        }
        head = await sidecar.send("HEAD", f"{path}/content", headers={"range": "bytes=1-2"})
        assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(content)))
        assert (await sidecar.send("DELETE", path)).json == {"id": file["id"], "object": "file", "deleted": True}
        for method, rest in (("GET", ""), ("GET", "/content"), ("DELETE", "")):
            gone = await sidecar.send(method, path + rest)
            assert (gone.status, gone.error["code"]) == (404, "file_not_found")
        empty = {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
        assert (await sidecar.get("/v1/files")).json == empty


CONTENT_HEADERS = (
    *("content-type", "content-disposition", "x-content-type-options", "accept-ranges", "etag", "content-length"),
)


async def test_ranges() -> None:
    content = bytes(range(256)) * 9000
    async with serving() as sidecar:
        id = (await create(sidecar, content)).json["id"]
        path = f"/v1/files/{id}/content"
        for value, start, end in (
            ("bytes=0-0", 0, 1),
            ("bytes=1048575-1048576", 1048575, 1048577),
            ("bytes=5-", 5, len(content)),
            ("bytes=-7", len(content) - 7, len(content)),
            (f"bytes=100-{10**15}", 100, len(content)),
        ):
            reply = await sidecar.send("GET", path, headers={"range": value, "if-range": f'"{id}"'})
            assert (reply.status, reply.body) == (206, content[start:end])
            assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/{len(content)}"
            assert reply.headers["content-length"] == str(end - start)
        for headers in ({"range": "bytes=0-1,5-6"}, {"range": "bytes=0-1", "if-range": '"other"'}):
            assert (await sidecar.send("GET", path, headers=headers)).status == 200
        beyond = await sidecar.send("GET", path, headers={"range": f"bytes={len(content)}-"})
        assert (beyond.status, beyond.error["code"]) == (416, "range_not_satisfiable")
        assert beyond.headers["content-range"] == f"bytes */{len(content)}"
        same = await sidecar.send("GET", path, headers={"if-none-match": f'"{id}"'})
        assert (same.status, same.body) == (304, b"")


async def test_expiry() -> None:
    async with serving() as sidecar:
        for fields, seconds in (
            ({}, None),
            ({"purpose": "batch"}, 30 * DAY),
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "3600"}, 3600),
            (
                {"purpose": "batch", "expires_after[anchor]": "created_at", "expires_after[seconds]": "2592000"},
                30 * DAY,
            ),
        ):
            file = (await create(sidecar, fields=fields)).json
            assert file["expires_at"] == (None if seconds is None else file["created_at"] + seconds)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "zzz"}, "purpose"),
        ({"purpose": "batch_output"}, "purpose"),
        ({"expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        ({"expires_after[anchor]": "created_at"}, "expires_after[seconds]"),
        ({"expires_after[anchor]": "now", "expires_after[seconds]": "3600"}, "expires_after[anchor]"),
        *(
            ({"expires_after[anchor]": "created_at", "expires_after[seconds]": seconds}, "expires_after[seconds]")
            for seconds in ("3599", "2592001", "1e4", "-1", "", "9" * 5000)
        ),
        ({"zzz": "1"}, "zzz"),
    ],
)
async def test_a_wrong_field_is_refused_and_nothing_is_stored(
    fields: dict[str, str], param: str, tmp_path: Path
) -> None:
    async with serving(blobs=tmp_path) as sidecar:
        reply = await create(sidecar, fields=fields)
        assert (reply.status, reply.error["param"]) == (400, param)
        assert blobs_of(tmp_path) == []


async def test_a_form_without_a_purpose_or_a_file(tmp_path: Path) -> None:
    async with serving(blobs=tmp_path) as sidecar:
        for wrong, param in ((form(file=b"x"), "purpose"), (form(), "file")):
            reply = await sidecar.send("POST", "/v1/files", *wrong)
            assert (reply.status, reply.error["param"]) == (400, param)
        body, headers = form({"purpose": "batch"}, file=b"x")
        cut = await sidecar.send("POST", "/v1/files", body[:-20], headers)
        assert (cut.status, cut.error["code"]) == (400, "invalid_form")
        for content_type in ("application/json", ""):
            assert (await sidecar.send("POST", "/v1/files", body, {"content-type": content_type})).status == 415
        encoded = await sidecar.send("POST", "/v1/files", body, {**headers, "content-encoding": "gzip"})
        assert encoded.status == 415
        assert blobs_of(tmp_path) == []


async def test_a_file_may_have_the_maximum_size(tmp_path: Path) -> None:
    async with serving(max_file_bytes=100_000, blobs=tmp_path) as sidecar:
        assert (await create(sidecar, b"x" * 100_000)).status == 200
        for size in (100_001, 1_000_000):
            reply = await create(sidecar, b"x" * size)
            assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "file_too_large", "file")
        body, headers = form({"purpose": "batch"}, file=b"x")
        early = await sidecar.send("POST", "/v1/files", body, {**headers, "content-length": str(10**12)})
        assert early.status == 413
        assert len(blobs_of(tmp_path)) == 1


async def test_the_files_of_a_caller_are_limited(tmp_path: Path) -> None:
    async with serving(store_max_file_bytes=10, blobs=tmp_path) as sidecar:
        assert (await create(sidecar, b"x" * 8)).status == 200
        reply = await create(sidecar, b"xxx")
        assert (reply.status, reply.error["code"]) == (403, "file_quota_exceeded")
        upload = await sidecar.send("POST", "/v1/uploads", UPLOAD)
        assert (upload.status, upload.error["code"]) == (403, "file_quota_exceeded")
        assert len(blobs_of(tmp_path)) == 1


async def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(writer: object, data: bytes) -> None:
        raise BlobsFull("full")

    async with serving(blobs=tmp_path) as sidecar:
        kept = (await create(sidecar)).json["id"]
        upload = (await sidecar.send("POST", "/v1/uploads", UPLOAD)).json["id"]
        with monkeypatch.context() as context:
            context.setattr(blob_folder.FolderWriter, "write", write)
            for reply in (await create(sidecar), await add_part(sidecar, upload, b"x")):
                assert (reply.status, reply.error["code"]) == (507, "insufficient_storage")
        assert (await sidecar.get(f"/v1/files/{kept}/content")).body == b"hello"
        assert (await create(sidecar)).status == 200
        assert len(blobs_of(tmp_path)) == 2


async def test_a_missing_blob_is_an_error_with_a_status(tmp_path: Path) -> None:
    async with serving(blobs=tmp_path) as sidecar:
        id = (await create(sidecar)).json["id"]
        blobs_of(tmp_path)[0].unlink()
        assert (await sidecar.get(f"/v1/files/{id}/content")).status == 503


async def test_a_store_that_is_away(tmp_path: Path) -> None:
    database = tmp_path / "store.db"
    async with serving(store=f"sqlite:///{database}") as sidecar:
        id = (await create(sidecar)).json["id"]
        (blob,) = blobs_of(tmp_path / "store.db.blobs")
        database.rename(tmp_path / "moved.db")
        path = f"/v1/files/{id}"
        for reply in (await create(sidecar), await sidecar.send("DELETE", path), await create(sidecar)):
            assert (reply.status, reply.error["code"]) == (503, "store_unavailable")
        # The sweeper deletes the blob of a file whose transaction may have been committed. Once the store is known to
        # be away, a file is refused before it is received.
        blobs = blobs_of(tmp_path / "store.db.blobs")
        assert blob in blobs
        assert len(blobs) <= 2


async def test_a_commit_that_was_not_confirmed_keeps_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Link.write

    async def lost(link: Link, name: str, *args: Any, **kwargs: Any) -> Any:
        result = await write(link, name, *args, **kwargs)
        if name == "create_file":
            raise StoreAway
        return result

    async with serving() as sidecar:
        with monkeypatch.context() as context:
            context.setattr(Link, "write", lost)
            assert (await create(sidecar)).status == 503
        (file,) = (await sidecar.get("/v1/files")).json["data"]
        assert (await sidecar.get(f"/v1/files/{file['id']}/content")).body == b"hello"


async def test_lists_with_cursors() -> None:
    async with serving() as sidecar:
        ids = [(await create(sidecar, fields={"purpose": ("batch", "vision")[n % 2]})).json["id"] for n in range(5)]
        for query, found, has_more in (
            ("", ids[::-1], False),
            ("?order=asc", ids, False),
            ("?limit=2", [ids[4], ids[3]], True),
            (f"?limit=2&after={ids[3]}", [ids[2], ids[1]], True),
            (f"?limit=3&order=asc&after={ids[3]}", [ids[4]], False),
            ("?purpose=vision", [ids[3], ids[1]], False),
            ("?purpose=evals", [], False),
        ):
            listed = (await sidecar.get(f"/v1/files{query}")).json
            assert [file["id"] for file in listed["data"]] == found
            assert listed["has_more"] == has_more
        for query, param in (
            *(("limit=0", "limit"), ("limit=10001", "limit"), ("limit=x", "limit"), ("order=up", "order")),
            *(("purpose=zzz", "purpose"), ("after=zzz", "after"), (f"after={ids[0]}0", "after")),
        ):
            reply = await sidecar.get(f"/v1/files?{query}")
            assert (reply.status, reply.error["param"]) == (400, param)


async def test_files_belong_to_a_key() -> None:
    async with serving(api_key=("k1", "k2")) as sidecar:
        id = (await create(sidecar, key="k1")).json["id"]
        upload = await sidecar.send("POST", "/v1/uploads", UPLOAD, authorization("k1"))
        other = authorization("k2")
        for method, path in (
            *(("GET", f"/v1/files/{id}"), ("GET", f"/v1/files/{id}/content"), ("DELETE", f"/v1/files/{id}")),
            *(("POST", f"/v1/uploads/{upload.json['id']}/{verb}") for verb in ("parts", "complete", "cancel")),
        ):
            body: object = {"part_ids": []} if path.endswith("complete") else None
            assert (await sidecar.send(method, path, body, other)).status == 404, path
        assert (await sidecar.send("GET", "/v1/files", headers=other)).json["data"] == []
        assert (await create(sidecar)).status == 401
        assert (await sidecar.send("GET", f"/v1/files/{id}", headers=authorization("k1"))).status == 200


async def test_without_a_place_for_files() -> None:
    async with running(FakeWorker()) as sidecar:
        for reply in (await create(sidecar), await sidecar.get("/v1/files"), await sidecar.get("/v1/files/x")):
            assert (reply.status, reply.error["code"]) == (404, "files_disabled")
        anthropic = await sidecar.send("GET", "/v1/files", headers={"anthropic-version": "2023-06-01"})
        assert anthropic.anthropic_error["type"] == "not_found_error"


async def test_a_file_is_not_in_the_memory_of_bodies() -> None:
    async with serving(max_inflight_body_bytes=1000) as sidecar:
        replies = await asyncio.gather(*(create(sidecar, b"x" * 100_000) for _ in range(8)))
        assert {reply.status for reply in replies} == {200}


# ---- Uploads


async def test_an_upload() -> None:
    async with serving() as sidecar:
        created = await sidecar.send("POST", "/v1/uploads", {**UPLOAD, "expires_after": None})
        upload = created.json
        assert upload == {
            "id": upload["id"],
            "object": "upload",
            "bytes": 6,
            "created_at": upload["created_at"],
            "expires_at": upload["created_at"] + 3600,
            "filename": "f.bin",
            "purpose": "user_data",
            "status": "pending",
            "file": None,
        }
        path = f"/v1/uploads/{upload['id']}"
        first, second = [(await add_part(sidecar, upload["id"], data)).json for data in (b"abc", b"def")]
        assert first == {
            "id": first["id"],
            "object": "upload.part",
            "created_at": first["created_at"],
            "upload_id": upload["id"],
        }
        wrong = await sidecar.send("POST", f"{path}/complete", {"part_ids": [first["id"]]})
        assert (wrong.status, wrong.error["param"]) == (400, "part_ids")
        assert "3 bytes" in wrong.error["message"]
        assert "6" in wrong.error["message"]
        order = {"part_ids": [second["id"], first["id"]]}
        digest = await sidecar.send("POST", f"{path}/complete", {**order, "md5": "0" * 32})
        assert (digest.status, digest.error["param"]) == (400, "md5")
        done = await sidecar.send(
            "POST", f"{path}/complete", {**order, "md5": hashlib.md5(b"defabc", usedforsecurity=False).hexdigest()}
        )
        assert done.status == 200, done.body
        file = done.json["file"]
        assert done.json == {**upload, "status": "completed", "file": file}
        assert (await sidecar.get(f"/v1/files/{file['id']}")).json == file
        assert (await sidecar.get(f"/v1/files/{file['id']}/content")).body == b"defabc"
        assert (await sidecar.send("POST", f"{path}/complete", {**order, "md5": None})).json == done.json
        for reply in (await add_part(sidecar, upload["id"], b"x"), await sidecar.send("POST", f"{path}/cancel")):
            assert (reply.status, reply.error["code"]) == (400, "upload_not_pending")


async def test_a_cancelled_upload(tmp_path: Path) -> None:
    async with serving(blobs=tmp_path) as sidecar:
        upload = (await sidecar.send("POST", "/v1/uploads", UPLOAD)).json
        part = await add_part(sidecar, upload["id"], b"abc")
        path = f"/v1/uploads/{upload['id']}"
        for _ in range(2):
            cancelled = await sidecar.send("POST", f"{path}/cancel")
            assert cancelled.json == {**upload, "status": "cancelled"}
        assert blobs_of(tmp_path) == []
        assert (await sidecar.send("POST", f"{path}/complete", {"part_ids": [part.json["id"]]})).status == 400


async def test_the_limits_of_uploads(tmp_path: Path) -> None:
    limits = {"max_upload_bytes": 10, "max_upload_parts": 2, "max_file_bytes": 1}
    async with serving(blobs=tmp_path, **limits) as sidecar:
        reply = await sidecar.send("POST", "/v1/uploads", {**UPLOAD, "bytes": 11})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (413, "file_too_large", "bytes")
        id = (await sidecar.send("POST", "/v1/uploads", UPLOAD)).json["id"]
        too_large = await add_part(sidecar, id, b"x" * 13)
        assert (too_large.status, too_large.error["code"]) == (400, "upload_too_large")
        for _ in range(2):
            assert (await add_part(sidecar, id, b"xxx")).status == 200
        many = await add_part(sidecar, id, b"x")
        assert (many.status, many.error["code"]) == (400, "too_many_parts")
        assert len(blobs_of(tmp_path)) == 2
        body, headers = form(data=b"x")
        part = await sidecar.send("POST", f"/v1/uploads/{id}/parts", body, {**headers, "content-length": str(66 << 20)})
        assert (part.status, part.error["param"]) == (413, "data")


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"bytes": -1}, "bytes"),
        ({"bytes": "1"}, "bytes"),
        ({"bytes": None}, "bytes"),
        ({"filename": ""}, "filename"),
        ({"filename": "n" * 1025}, "filename"),
        ({"purpose": "zzz"}, "purpose"),
        ({"mime_type": None}, "mime_type"),
        ({"expires_after": {"anchor": "created_at", "seconds": 1}}, "expires_after.seconds"),
        ({"expires_after": {"seconds": 3600}}, "expires_after.anchor"),
        ({"zzz": 1}, "zzz"),
    ],
)
async def test_a_wrong_upload_is_refused(changes: dict[str, Any], param: str) -> None:
    async with serving() as sidecar:
        reply = await sidecar.send("POST", "/v1/uploads", {**UPLOAD, **changes})
        assert (reply.status, reply.error["param"]) == (400, param)


@pytest.mark.slow
async def test_ten_thousand_files_are_listed() -> None:
    async with serving() as sidecar:
        for _ in range(100):
            await asyncio.gather(*(create(sidecar, b"") for _ in range(100)))
        found = (await sidecar.get("/v1/files")).json
        assert (len(found["data"]), found["has_more"]) == (10_000, False)
        ids = [file["id"] for file in found["data"]]
        assert ids == sorted(set(ids), reverse=True)
        paged: list[str] = []
        while len(paged) < 10_000:
            after = f"&after={paged[-1]}" if paged else ""
            page = (await sidecar.get(f"/v1/files?limit=3000{after}")).json
            paged += [file["id"] for file in page["data"]]
            assert page["has_more"] == (len(paged) < 10_000)
        assert paged == ids
