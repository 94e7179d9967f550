"""Batches over real gRPC, from the request to the output files."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai.types import Completion

from openai_server.api.batches import checking, steward
from openai_server.api.batches.request import MAX_LIMIT
from openai_server.core.file_errors import StorageFull
from openai_server.core.store_errors import StoreAway
from openai_server.store.batch_store import BatchStore
from openai_server.store.file_records import Part
from openai_server.store.file_store import FileStore
from protos.grpc_predict_v2_pb2 import ModelInferRequest, ModelInferResponse
from tests.openai_server.store.stores import execute
from tests.shapes import exact
from tests.wire.batch_files import (
    COMPLETIONS,
    add_file,
    create,
    ended,
    get,
    lines_of,
    request,
    requests,
    shown,
    until,
)
from tests.wire.exposition import Scrape
from tests.wire.fake_worker import FakeWorker, Refusal, inputs_of, serving, whole
from tests.wire.sidecar import Sidecar, app_for, running

MEMORY = "sqlite://"
PATH = "/v1/batches"


class BatchWorker(FakeWorker):
    """Echoes prompts. `bad` fails, `hang` is answered when `release` is set."""

    def __init__(self) -> None:
        super().__init__(self._infer_prompt)
        self.release = asyncio.Event()
        self.begun: asyncio.Queue[str] = asyncio.Queue()
        """The prompts, as they arrive."""

    async def _infer_prompt(self, request: ModelInferRequest) -> ModelInferResponse:
        prompt = inputs_of(request)["prompt"][0].decode()
        self.begun.put_nowait(prompt)
        if prompt == "bad":
            raise Refusal("INVALID_ARGUMENT", "The prompt is bad.")
        if prompt == "hang":
            await self.release.wait()
        return whole(prompt)

    async def next(self) -> str:
        return await asyncio.wait_for(self.begun.get(), 30)


@asynccontextmanager
async def batches(**config: Any) -> AsyncIterator[tuple[Sidecar, BatchWorker]]:
    worker = BatchWorker()
    async with running(worker, **{"store": MEMORY, **config}) as sidecar:
        yield sidecar, worker


async def cancel(sidecar: Sidecar, id: str) -> dict[str, Any]:
    reply = await sidecar.send("POST", f"{PATH}/{id}/cancel")
    assert reply.status == 200, reply.body
    return shown(reply.json)


def codes(lines: list[Any]) -> list[str]:
    for line in lines:
        assert line.keys() == {"id", "custom_id", "response", "error"}
        assert line["response"] is None
        assert line["error"].keys() == {"code", "message"}
    return [line["error"]["code"] for line in lines]


async def test_a_batch_from_its_creation_to_its_files() -> None:
    async with batches() as (sidecar, _):
        lines = [request("a", "one"), request("b", "bad"), request("c", "three"), request("d", model="unheard")]
        batch = await create(sidecar, lines, metadata={"job": "nightly"})
        assert (batch["object"], batch["status"], batch["endpoint"]) == ("batch", "validating", COMPLETIONS)
        assert (batch["metadata"], batch["completion_window"]) == ({"job": "nightly"}, "24h")
        assert batch["expires_at"] == batch["created_at"] + 86400
        assert batch["request_counts"] == {"total": 0, "completed": 0, "failed": 0}
        batch = await ended(sidecar, batch["id"])
        assert batch["status"] == "completed"
        assert batch["request_counts"] == {"total": 4, "completed": 2, "failed": 2}
        times = [batch[name] for name in ("created_at", "in_progress_at", "finalizing_at", "completed_at")]
        assert times == sorted(times)
        assert [batch[f"{name}_at"] for name in ("failed", "expired", "cancelling", "cancelled")] == [None] * 4
        assert (batch["model"], batch["errors"]) == ("tiny", None)
        usage = batch["usage"]
        assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (6, 4, 10)
        assert usage["input_tokens_details"] == {"cached_tokens": 2}
        output = await lines_of(sidecar, batch["output_file_id"])
        errors = await lines_of(sidecar, batch["error_file_id"])
        assert [line["custom_id"] for line in output] == ["a", "c"]
        assert [line["custom_id"] for line in errors] == ["b", "d"]
        assert len({line["id"] for line in [*output, *errors]}) == 4
        for line in [*output, *errors]:
            assert line["id"].startswith("batch_req_")
            assert line["error"] is None
            assert line["response"]["request_id"].startswith("req_")
        assert [exact(Completion, line["response"]["body"]).choices[0].text for line in output] == ["one", "three"]
        assert [line["response"]["status_code"] for line in output] == [200, 200]
        assert [line["response"]["status_code"] for line in errors] == [400, 404]
        assert errors[1]["response"]["body"]["error"]["code"] == "model_not_found"


async def test_output_files_belong_to_the_owner_and_expire() -> None:
    async with batches() as (sidecar, _):
        batch = await create(sidecar, requests(1), output_expires_after={"anchor": "created_at", "seconds": 3600})
        plain = await create(sidecar, requests(1))
        store = sidecar.app.services.store
        assert store is not None
        for id, seconds in ((batch["id"], 3600), (plain["id"], 30 * 86400)):
            done = await ended(sidecar, id)
            assert done["error_file_id"] is None
            file = await store.files.get("", done["output_file_id"])
            assert (file.filename, file.purpose) == (f"{id}_output.jsonl", "batch_output")
            assert file.expires_at == file.created_at + seconds


async def test_errors_of_the_input_file_fail_the_batch() -> None:
    async with batches() as (sidecar, worker):
        batch = await create(sidecar, [request("a"), {}, request("a"), request("b", url="/v1/embeddings")])
        batch = await ended(sidecar, batch["id"])
        assert (batch["status"], batch["output_file_id"], batch["error_file_id"]) == ("failed", None, None)
        assert batch["failed_at"] >= batch["created_at"]
        assert batch["in_progress_at"] is None
        assert batch["errors"]["object"] == "list"
        found = [(error["line"], error["code"], error["param"]) for error in batch["errors"]["data"]]
        assert found == [
            (2, "missing_required_parameter", "custom_id"),
            (3, "duplicate_custom_id", "custom_id"),
            (4, "invalid_url", "url"),
        ]
        assert not worker.requests


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing", "completed"])
async def test_a_batch_is_cancelled_in_each_status(status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = asyncio.Event()

    async def held(self: BatchStore, *args: Any, **fields: Any) -> None:
        await go_on.wait()
        await real(self, *args, **fields)

    if status in ("validating", "finalizing"):
        name = "begin" if status == "validating" else "finish"
        real = getattr(BatchStore, name)
        monkeypatch.setattr(BatchStore, name, held)
    async with batches(batch_concurrency=2) as (sidecar, worker):
        second = "hang" if status == "in_progress" else "fast"
        batch = await create(sidecar, [request("a"), request("b", second), request("c", second), request("d", second)])
        await until(sidecar, batch["id"], status)
        if status in ("finalizing", "completed"):
            reply = await sidecar.send("POST", f"{PATH}/{batch['id']}/cancel")
            assert (reply.status, reply.error["type"]) == (400, "invalid_request_error")
            go_on.set()
            return
        if status == "in_progress":
            assert sorted([await worker.next() for _ in range(3)]) == ["hang", "hang", "hi"]
            while (await get(sidecar, batch["id"]))["request_counts"]["completed"] != 1:
                pass
        cancelled = await cancel(sidecar, batch["id"])
        assert cancelled["status"] == ("cancelled" if status == "validating" else "cancelling")
        if status == "in_progress":
            for _ in range(2):
                await asyncio.wait_for(worker.cancelled.get(), 30)
        go_on.set()
        batch = await until(sidecar, batch["id"], "cancelled")
        assert batch["cancelled_at"] >= batch["cancelling_at"] >= batch["created_at"]
        assert await cancel(sidecar, batch["id"]) == batch
        scrape = Scrape(sidecar.app.observer.metrics.text())
        assert scrape.value("openai_server_batches_total", status="cancelled") == 1
        if status == "validating":
            assert batch["request_counts"]["total"] == 0
            assert batch["output_file_id"] is batch["error_file_id"] is None
            return
        assert batch["request_counts"] == {"total": 4, "completed": 1, "failed": 3}
        assert [line["custom_id"] for line in await lines_of(sidecar, batch["output_file_id"])] == ["a"]
        left = await lines_of(sidecar, batch["error_file_id"])
        assert [line["custom_id"] for line in left] == ["b", "c", "d"]
        assert codes(left) == ["batch_cancelled"] * 3
        assert worker.begun.empty()


async def test_a_batch_expires() -> None:
    async with batches() as (sidecar, worker):
        batch = await create(sidecar, [request("a"), request("b", "hang")], completion_window="30m")
        assert batch["expires_at"] == batch["created_at"] + 1800
        assert sorted([await worker.next(), await worker.next()]) == ["hang", "hi"]
        while (await get(sidecar, batch["id"]))["request_counts"]["completed"] != 1:
            pass
        await pass_deadline(sidecar)
        batch = await until(sidecar, batch["id"], "expired")
        assert await asyncio.wait_for(worker.cancelled.get(), 30)
        assert batch["expired_at"] >= batch["finalizing_at"] >= batch["in_progress_at"]
        assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
        assert [line["custom_id"] for line in await lines_of(sidecar, batch["output_file_id"])] == ["a"]
        assert codes(await lines_of(sidecar, batch["error_file_id"])) == ["batch_expired"]


async def test_a_full_backend_delays_lines_and_a_lost_one_too() -> None:
    async with batches() as (sidecar, worker):
        worker.failing.add("ModelInfer")
        batch = await create(sidecar, requests(2))
        await until(sidecar, batch["id"], "in_progress")
        await asyncio.wait_for(worker.arrived.get(), 30)
        worker.failing.clear()
        batch = await ended(sidecar, batch["id"])
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_an_unfinished_batch_keeps_its_input_file() -> None:
    async with batches() as (sidecar, worker):
        batch = await create(sidecar, [request("a", "hang")])
        assert await worker.next() == "hang"
        reply = await sidecar.send("DELETE", f"/v1/files/{batch['input_file_id']}")
        assert (reply.status, reply.error["code"]) == (409, "file_in_use")
        worker.release.set()
        batch = await ended(sidecar, batch["id"])
        assert (await sidecar.send("DELETE", f"/v1/files/{batch['input_file_id']}")).status == 200
        content = await sidecar.get(f"/v1/files/{batch['output_file_id']}/content")
        assert json.loads(content.body)["custom_id"] == "a"


async def test_two_sidecars_share_the_lines_of_a_batch(tmp_path: Path) -> None:
    worker = BatchWorker()
    settings: dict[str, Any] = {"store": f"sqlite:///{tmp_path / 'db'}", "batch_concurrency": 2}
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(worker))
        a = await stack.enter_async_context(app_for(port, **settings))
        b = await stack.enter_async_context(app_for(port, **settings))
        batch = await create(a, requests(8, "hang"))
        for _ in range(4):  # two of each
            assert await worker.next() == "hang"
        for sidecar in (a, b):
            scrape = Scrape(sidecar.app.observer.metrics.text())
            assert scrape.value("openai_server_batch_lines_running") == 2
        worker.release.set()
        batch = await ended(b, batch["id"])
        assert batch["request_counts"] == {"total": 8, "completed": 8, "failed": 0}
        output = await lines_of(a, batch["output_file_id"])
        assert [line["custom_id"] for line in output] == [f"request {i}" for i in range(8)]
        assert len(worker.requests) == 8
        counts = [Scrape(sidecar.app.observer.metrics.text()) for sidecar in (a, b)]
        assert sum(scrape.value("openai_server_batch_lines_total", outcome="completed") for scrape in counts) == 8
        ended_by = Counter(scrape.value("openai_server_batches_total", status="completed") for scrape in counts)
        assert ended_by[1] == 1


async def test_batches_belong_to_their_owner(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("ann: key-of-ann\nbob: key-of-bob\n")
    ann, bob = ({"authorization": f"Bearer key-of-{name}"} for name in ("ann", "bob"))
    async with batches(api_key_file=keys) as (sidecar, _):
        file = await add_file(sidecar, b"{}", owner="name ann")
        body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h"}
        reply = await sidecar.send("POST", PATH, body, bob)
        assert (reply.status, reply.error["param"]) == (404, "input_file_id")
        batch = (await sidecar.send("POST", PATH, body, ann)).json
        for method, path in (("GET", f"{PATH}/{batch['id']}"), ("POST", f"{PATH}/{batch['id']}/cancel")):
            reply = await sidecar.send(method, path, headers=bob)
            assert (reply.status, reply.error["code"]) == (404, "batch_not_found")
        assert (await sidecar.send("GET", PATH, headers=bob)).json["data"] == []
        assert len((await sidecar.send("GET", PATH, headers=ann)).json["data"]) == 1


async def test_lists_have_pages() -> None:
    async with batches(max_batches=3) as (sidecar, _):
        ids = [(await create(sidecar, [request("a", "hang")]))["id"] for _ in range(3)]
        page = (await sidecar.get(f"{PATH}?limit=2")).json
        assert [batch["id"] for batch in page["data"]] == ids[:0:-1]
        assert (page["object"], page["has_more"], page["first_id"], page["last_id"]) == ("list", True, ids[2], ids[1])
        page = (await sidecar.get(f"{PATH}?limit=2&after={ids[1]}")).json
        assert ([batch["id"] for batch in page["data"]], page["has_more"]) == (ids[:1], False)
        assert (await sidecar.get(f"{PATH}?after=batch_x")).error["param"] == "after"
        for limit in ("0", "x", str(MAX_LIMIT + 1)):
            reply = await sidecar.get(f"{PATH}?limit={limit}")
            assert (reply.status, reply.error["param"]) == (400, "limit")
        file = await add_file(sidecar, b"{}")
        body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h"}
        reply = await sidecar.send("POST", PATH, body)
        assert (reply.status, reply.error["code"]) == (429, "batch_limit_exceeded")


@pytest.mark.parametrize(
    ("fields", "status", "param"),
    [
        ({"input_file_id": "file-none"}, 404, "input_file_id"),
        ({"input_file_id": None}, 400, "input_file_id"),
        ({"endpoint": "/v1/models"}, 400, "endpoint"),
        ({"completion_window": "24 hours"}, 400, "completion_window"),
        ({"completion_window": "31d"}, 400, "completion_window"),
        ({"completion_window": "0h"}, 400, "completion_window"),
        ({"metadata": {"a" * 65: "b"}}, 400, f"metadata.{'a' * 65}"),
        ({"metadata": {str(i): "b" for i in range(17)}}, 400, "metadata"),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 60}}, 400, "output_expires_after.seconds"),
        ({"output_expires_after": {"seconds": 3600}}, 400, "output_expires_after.anchor"),
        ({"priority": 1}, 400, "priority"),
    ],
)
async def test_bad_requests(fields: dict[str, Any], status: int, param: str) -> None:
    async with batches() as (sidecar, _):
        file = await add_file(sidecar, b"{}")
        body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h", **fields}
        reply = await sidecar.send("POST", PATH, body)
        assert (reply.status, reply.error["param"]) == (status, param), reply.body


async def test_null_is_an_absent_field() -> None:
    async with batches() as (sidecar, _):
        batch = await create(sidecar, requests(1), metadata=None, output_expires_after=None)
        assert batch["metadata"] is None


async def test_a_file_with_another_purpose_is_refused() -> None:
    async with batches() as (sidecar, _):
        file = await add_file(sidecar, b"{}", purpose="user_data")
        body = {"input_file_id": file, "endpoint": COMPLETIONS, "completion_window": "24h"}
        reply = await sidecar.send("POST", PATH, body)
        assert (reply.status, reply.error["param"]) == (400, "input_file_id")


async def test_a_server_without_a_store_has_no_batches() -> None:
    async with batches(store=None) as (sidecar, _):
        for method, path in (("GET", PATH), ("GET", f"{PATH}/batch_1"), ("POST", f"{PATH}/batch_1/cancel")):
            reply = await sidecar.send(method, path)
            assert (reply.status, reply.error["code"]) == (404, "files_disabled")


async def test_a_large_file_is_taken_in_small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing between two passes of the event loop handles more than a group of lines."""
    sizes: list[int] = []
    real = BatchStore.add_lines

    async def counted(self: BatchStore, batch: Any, lines: Any) -> None:
        sizes.append(len(lines))
        await real(self, batch, lines)

    monkeypatch.setattr(BatchStore, "add_lines", counted)
    n = 3 * checking.GROUP + 1
    async with batches(batch_concurrency=1) as (sidecar, _):
        batch = await create(sidecar, requests(n, "hang"))
        batch = await until(sidecar, batch["id"], "in_progress")
        assert batch["request_counts"]["total"] == n
    assert sizes == [checking.GROUP] * 3 + [1]


async def pass_deadline(sidecar: Sidecar) -> None:
    store = sidecar.app.services.store
    assert store is not None
    await execute(store, "UPDATE batches SET deadline = 1")


async def test_a_commit_that_was_not_confirmed_ends_a_batch_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each transaction of the steward and of the results is committed, but reported as failed, the first time."""
    failed = set[str]()

    def once(name: str) -> None:
        real = getattr(BatchStore, name)

        async def unconfirmed(self: BatchStore, *args: Any, **fields: Any) -> Any:
            value = await real(self, *args, **fields)
            if name not in failed:
                failed.add(name)
                raise StoreAway
            return value

        monkeypatch.setattr(BatchStore, name, unconfirmed)

    names = ("take", "add_lines", "begin", "claim", "add_results", "finish", "delete_lines")
    for name in names:
        once(name)
    monkeypatch.setattr(steward, "REST_SECONDS", 0)
    monkeypatch.setattr(steward, "RETRY_SECONDS", 0)
    async with batches() as (sidecar, _):
        batch = await ended(sidecar, (await create(sidecar, [*requests(3), request("bad", "bad")]))["id"])
        assert failed >= {*names} - {"delete_lines"}
        assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 4, "completed": 3, "failed": 1})
        assert len(await lines_of(sidecar, batch["output_file_id"])) == 3
        assert len(await lines_of(sidecar, batch["error_file_id"])) == 1
        files = (await sidecar.get("/v1/files?purpose=batch_output")).json["data"]
        assert len(files) == 2


async def test_a_full_disk_delays_the_output_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "REST_SECONDS", 0)
    discarded: list[Part] = []
    n_failures = 0

    async def receive(self: FileStore, pieces: Any, *, max_bytes: int) -> Part:
        nonlocal n_failures
        part = await real_receive(self, pieces, max_bytes=max_bytes)
        if has_room.is_set() or part.n_bytes > 1000:  # there is room for the output file, but not for the error file
            return part
        n_failures += 1
        if n_failures == 3:
            has_room.set()
        raise StorageFull

    async def discard(self: FileStore, parts: Any) -> None:
        discarded.extend(parts)
        await real_discard(self, parts)

    real_receive, real_discard, has_room = FileStore.receive, FileStore.discard, asyncio.Event()
    async with batches() as (sidecar, _):
        batch = await create(sidecar, [*requests(9), request("bad", "bad")])
        monkeypatch.setattr(FileStore, "receive", receive)
        monkeypatch.setattr(FileStore, "discard", discard)
        batch = await ended(sidecar, batch["id"])
        assert batch["status"] == "completed"
        assert len(await lines_of(sidecar, batch["error_file_id"])) == 1
        assert len(discarded) == n_failures == 3


async def test_a_file_that_cannot_be_read_fails_the_batch_at_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steward, "REST_SECONDS", 0)
    tried = asyncio.Event()

    async def lost(self: FileStore, owner: str, id: str) -> Any:
        tried.set()
        raise StoreAway

    async with batches() as (sidecar, _):
        monkeypatch.setattr(FileStore, "get", lost)
        batch = await create(sidecar, requests(1))
        await asyncio.wait_for(tried.wait(), 30)
        other = await create(sidecar, requests(1))
        await pass_deadline(sidecar)
        for id in (batch["id"], other["id"]):
            done = await ended(sidecar, id)
            assert (done["status"], done["errors"]["data"][0]["code"]) == ("failed", "batch_expired")
