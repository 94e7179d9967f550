"""Compares files, uploads and batches in a store, after all traffic has ended, with what was announced."""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.databases import SQLITE, Database
from openai_server.store import sweeper
from openai_server.store.store import Store, StoreSettings
from tests.ops.filed.batches import text_of
from tests.ops.filed.client import FileClient
from tests.ops.filed.ledger import KnownBatch, KnownFile, Ledger, Line
from tests.ops.filed.visitor import BATCHES, FILES, UPLOADS
from tests.ops.stored.checks import eventually
from tests.ops.stored.digest_worker import embedding
from tests.ops.stored.model import Deletion, repeated

FINAL_SECONDS = 180.0
"""Time until each batch has ended."""
UNFINISHED = "SELECT id, status FROM batches WHERE status NOT IN ('completed', 'failed', 'expired', 'cancelled')"
NOTHING = {
    "a part is of a file that is gone": (
        "SELECT p.file_id FROM file_parts p LEFT JOIN files f ON f.id = p.file_id WHERE f.id IS NULL"
    ),
    "a part is of an upload that is gone": (
        "SELECT p.id FROM upload_parts p LEFT JOIN uploads u ON u.id = p.upload_id WHERE u.id IS NULL"
    ),
    "a cancelled upload has parts": (
        "SELECT u.id FROM upload_parts p JOIN uploads u ON u.id = p.upload_id WHERE u.status = 'cancelled'"
    ),
    "a file has another size than its parts": (
        "SELECT f.id FROM files f LEFT JOIN file_parts p ON p.file_id = f.id GROUP BY f.id, f.n_bytes "
        "HAVING f.n_bytes <> coalesce(sum(p.n_bytes), 0)"
    ),
    "two files share a blob": "SELECT blob FROM file_parts GROUP BY blob HAVING count(*) > 1",
    "a line is of a batch that is gone": (
        "SELECT l.batch_id FROM batch_lines l LEFT JOIN batches b ON b.id = l.batch_id WHERE b.id IS NULL"
    ),
    "a batch has an output file of another owner": (
        "SELECT b.id FROM batches b JOIN files f ON f.id IN (b.output_file_id, b.error_file_id) "
        "WHERE f.owner <> b.owner"
    ),
    "a file of a batch belongs to none": (
        "SELECT f.id FROM files f LEFT JOIN batches b ON f.id IN (b.output_file_id, b.error_file_id) "
        "WHERE f.purpose = 'batch_output' AND b.id IS NULL"
    ),
}
"""Queries that find nothing in a sound store."""
COUNTERS = """
SELECT o.owner, o.n_files, o.n_file_bytes,
  (SELECT count(*) FROM files f WHERE f.owner = o.owner)
  + (SELECT count(*) FROM uploads u WHERE u.owner = o.owner AND u.status = 'pending'),
  (SELECT coalesce(sum(f.n_bytes), 0) FROM files f WHERE f.owner = o.owner)
  + (SELECT coalesce(sum(p.n_bytes), 0) FROM uploads u JOIN upload_parts p ON p.upload_id = u.id
     WHERE u.owner = o.owner AND u.status = 'pending')
FROM owners o
"""
USED_BLOBS = (
    "SELECT blob FROM file_parts UNION SELECT p.blob FROM upload_parts p JOIN uploads u ON u.id = p.upload_id "
    "WHERE u.status = 'pending' "
    "UNION SELECT blob FROM items WHERE blob IS NOT NULL "
    "UNION SELECT request_blob FROM responses WHERE request_blob IS NOT NULL"
)


def unfinished(database: Database, seconds: float = FINAL_SECONDS) -> list[str]:
    """Problems with batches that don't end."""
    if eventually(lambda: not database.rows(UNFINISHED), seconds):
        return []
    return [f"not final after {seconds:.0f} s: {row}" for row in database.rows(UNFINISHED)]


def problems_of_database(database: Database) -> list[str]:
    problems = [f"{name}: {rows[:5]}" for name, query in NOTHING.items() if (rows := database.rows(query))]
    for owner, *numbers in database.rows(COUNTERS):
        counted, actual = tuple(map(int, numbers[:2])), tuple(map(int, numbers[2:]))
        if counted != actual:
            problems.append(f"counted for {owner[:8]}: files and bytes {counted}, but there are {actual}")
    if database.kind == SQLITE and (result := database.rows("PRAGMA integrity_check")) != [("ok",)]:
        problems.append(f"integrity: {result}")
    return problems


def problems_of_blobs(database: Database, folder: Path) -> list[str]:
    """Sweeps with all blobs being old enough, and compares the files in the folder with the rows. No sidecar runs."""
    database.execute("DELETE FROM leases")
    with mock.patch.object(sweeper, "BLOB_SECONDS", 0.0):
        asyncio.run(_sweep(StoreSettings(url=database.url, blobs=folder)))
    used = {key for (key,) in database.rows(USED_BLOBS)}
    present = {file.name for file in folder.rglob("??/*") if file.is_file()}
    problems = []
    if used - present:
        problems.append(f"{len(used - present)} of {len(used)} blobs are lost: {sorted(used - present)[:3]}")
    if present - used:
        problems.append(f"{len(present - used)} blobs are left over: {sorted(present - used)[:3]}")
    return problems


async def _sweep(settings: StoreSettings) -> None:
    store = Store(settings, runner="sweeping")
    await store.open()
    try:
        link = store._link
        await link.parts.sweeper.sweep(link)
    finally:
        await store.close()


# ---- What clients were announced


class Checks:
    """The checks of one key, with a client that uses all sidecars. `problems` has what is wrong."""

    def __init__(self, ledger: Ledger, client: FileClient, stranger: FileClient) -> None:
        self._ledger = ledger
        self._client = client
        self._stranger = stranger
        self.problems: list[str] = []
        self.counts: Counter[str] = Counter()
        """Batches by status, and lines by their end."""
        self._outputs: set[str] = set()
        """Ids of the files of batches."""

    def run(self) -> list[str]:
        self._check_batches()
        self._check_files()
        for id in self._ledger.cancelled_uploads:
            status = self._client.call("POST", f"{UPLOADS}/{id}/complete", {"part_ids": []}).status
            self._expect(status in (400, 404), f"the cancelled upload {id} was completed: {status}")
        return self.problems

    # ---- Files

    def _check_files(self) -> None:
        listed = {file["id"]: file for file in self._client.pages(FILES, 1000)}
        by_name = {file.filename: file for file in self._ledger.files}
        for id, body in listed.items():
            if id in self._outputs:
                continue
            if (file := by_name.get(body["filename"])) is None:
                self.problems.append(f"the file {body} was created by no request")
            else:
                self._expect(file.id in ("", id), f"{file.filename} exists twice: {file.id}, {id}")
                self._check_file(file, body)
        for file in self._ledger.files:
            if file.id and file.deletion is Deletion.NONE:
                self._expect(file.id in listed, f"the file {file.id} is lost")

    def _check_file(self, file: KnownFile, body: Mapping[str, Any]) -> None:
        id = body["id"]
        self._expect(file.deletion is not Deletion.ANNOUNCED, f"{id} was deleted, and is there")
        self._expect((body["bytes"], body["purpose"]) == (len(file.content), file.purpose), f"{id} is {body}")
        status, content = self._client.content(f"{FILES}/{id}/content")
        self._expect((status, content) == (200, file.content), f"{id}: status {status}, {len(content)} other bytes")
        self._expect_hidden(f"{FILES}/{id}")
        self._expect_hidden(f"{FILES}/{id}/content")

    # ---- Batches

    def _check_batches(self) -> None:
        found = self._listed_batches()
        names = [(body["metadata"] or {}).get("name") for body in found]
        self._expect(not repeated(map(str, names)), f"batches twice: {repeated(map(str, names))}")
        by_name: dict[str | None, KnownBatch] = {batch.name: batch for batch in self._ledger.batches}
        for name, body in zip(names, found, strict=True):
            if (batch := by_name.get(name)) is None:
                self.problems.append(f"the batch {body} was created by no request")
            else:
                self._expect(batch.id in ("", body["id"]), f"{name} has the id {body['id']}, not {batch.id}")
                self.check_batch(batch, body)
        missing = {batch.id for batch in self._ledger.batches if batch.id} - {body["id"] for body in found}
        self._expect(not missing, f"batches that are lost: {missing}")

    def _listed_batches(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            reply = self._client.call("GET", f"{BATCHES}?limit=100{after}")
            found += reply.body["data"]
            if not reply.body["has_more"]:
                return found
            after = f"&after={reply.body['last_id']}"

    def check_batch(self, batch: KnownBatch, body: Mapping[str, Any]) -> None:
        id, status = body["id"], body["status"]
        self.counts[f"batches {status}"] += 1
        self._expect_hidden(f"{BATCHES}/{id}")
        self._outputs |= {body[key] for key in ("output_file_id", "error_file_id") if body.get(key)}
        if not batch.is_valid and status == "failed":
            self._expect(bool(body["errors"]["data"]), f"{id} failed without a reason")
            self._expect(body["request_counts"]["completed"] == 0, f"{id} failed, but has answers: {body}")
            return
        is_cancelled = status == "cancelled" and batch.cancellation is not Deletion.NONE
        self._expect(is_cancelled or (status == "completed" and batch.is_valid), f"{id} is {status}: {body}")
        self._expect(
            status == "cancelled" or batch.cancellation is not Deletion.ANNOUNCED,
            f"{id} was cancelled, and is {status}",
        )
        output = self._lines(id, body.get("output_file_id"))
        errors = self._lines(id, body.get("error_file_id"))
        ids = [line["custom_id"] for line in (*output, *errors)]
        self._expect(not repeated(ids), f"{id} has lines twice: {repeated(ids)}")
        expected = {line.custom_id for line in batch.lines}
        self._expect(set(ids) <= expected, f"{id} has lines of other batches: {set(ids) - expected}")
        if status == "completed" or body["request_counts"]["total"] > 0:
            self._expect(set(ids) == expected, f"{id} has lost the lines {expected - set(ids)}")
            n = {"total": len(expected), "completed": len(output), "failed": len(errors)}
            self._expect(body["request_counts"] == n, f"{id} counts {body['request_counts']}, not {n}")
        self._check_lines(batch, body, output, errors)

    def _lines(self, id: str, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        status, content = self._client.content(f"{FILES}/{file_id}/content")
        if not self._expect(status == 200, f"{file_id} of {id}: status {status}"):
            return []
        self._expect_hidden(f"{FILES}/{file_id}")
        self._expect_hidden(f"{FILES}/{file_id}/content")
        return [json.loads(line) for line in content.splitlines()]

    def _check_lines(
        self,
        batch: KnownBatch,
        body: Mapping[str, Any],
        output: Sequence[dict[str, Any]],
        errors: Sequence[dict[str, Any]],
    ) -> None:
        by_id: dict[str, Line] = {line.custom_id: line for line in batch.lines}
        usage: Counter[str] = Counter()
        for answered in output:
            line, response = by_id[answered["custom_id"]], answered["response"]
            self.counts["lines answered"] += 1
            if self._expect(response["status_code"] == 200 and line.answer is not None, f"an output line: {answered}"):
                text = text_of(line.url, response["body"])
                self._expect(_is_answer(line, text), f"{line} was answered with {answered}")
                usage.update(_usage(response["body"]["usage"]))
        for failed in errors:
            line, response = by_id[failed["custom_id"]], failed["response"]
            error = failed["error"] or (response or {}).get("body", {}).get("error")
            self._expect(bool(error), f"an error line: {failed}")
            self.counts[f"lines: {_code(failed)}"] += 1
            is_lost = failed["error"] is not None and response is None
            self._expect(is_lost or by_id[failed["custom_id"]].answer is None, f"a line that should succeed: {failed}")
        if body.get("usage") is not None:
            counted = {key: body["usage"][key] for key in ("input_tokens", "output_tokens")}
            expected = {key: usage[key] for key in counted}
            self._expect(counted == expected, f"{body['id']} counts {counted}, not {expected}")
        else:
            self._expect(not output, f"{body['id']} has no usage")

    def _expect_hidden(self, path: str) -> None:
        if path.endswith("/content"):
            status, _ = self._stranger.content(path)
        else:
            status = self._stranger.call("GET", path).status
        self._expect(status == 404, f"{path} has status {status} for another key")

    def _expect(self, condition: bool, problem: str) -> bool:
        if not condition:
            self.problems.append(problem)
        return condition


def _is_answer(line: Line, text: Any) -> bool:
    if line.url.endswith("/embeddings"):
        return bool(text == embedding(str(line.body["input"])))
    return bool(text == line.answer)


def _usage(usage: Mapping[str, Any]) -> dict[str, int]:
    """The Messages API counts cached tokens apart."""
    return {
        "input_tokens": usage.get("input_tokens", usage.get("prompt_tokens", 0))
        + usage.get("cache_read_input_tokens", 0),
        "output_tokens": usage.get("output_tokens", usage.get("completion_tokens", 0)),
    }


def _code(failed: Mapping[str, Any]) -> str:
    if failed["error"]:
        return str(failed["error"]["code"])
    return f"status {failed['response']['status_code']}"
