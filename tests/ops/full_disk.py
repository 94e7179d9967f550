"""`python -m tests.ops.full_disk`: files, uploads and batches of a sidecar whose disk is full, and has room again.

The disk is a small tmpfs in a mount namespace of the sidecar. Linux only.
"""

import hashlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from scripts.ports import free_port
from tests.e2e.servers import Process
from tests.ops.client import post
from tests.ops.filed.client import FileClient
from tests.ops.filed.visitor import BATCHES, FILES, MODEL, UPLOADS
from tests.ops.stored.checks import eventually
from tests.ops.stored.client import Cut, Reply
from tests.ops.stored.pair import digest_worker

KEY = "key-of-a-full-disk"
MIB = 1 << 20
DISK_MIB = 8
LEFT_BYTES = 64 << 10
"""Bytes that a full disk has left."""
READY_SECONDS = 60.0
RECOVERY_SECONDS = 30.0
"""Time until everything works again on a disk with room."""
MOUNT = 'mount -t tmpfs -o size="$0" tmpfs "$1"; shift; exec "$@"'


class Disk:
    """A small disk that only the process `pid` has mounted at `folder`."""

    def __init__(self, pid: int, folder: Path) -> None:
        self._root = Path(f"/proc/{pid}/root{folder}")

    @property
    def free_bytes(self) -> int:
        state = os.statvfs(self._root)
        return state.f_bavail * state.f_frsize

    def fill(self, left: int = LEFT_BYTES) -> None:
        with (self._root / "filler").open("ab") as file:
            file.write(bytes(max(0, self.free_bytes - left)))

    def make_room(self) -> None:
        (self._root / "filler").unlink()


class Scene:
    """A sidecar, its small disk, and a client."""

    def __init__(self, process: Process, port: int, disk: Disk) -> None:
        self.process = process
        self.disk = disk
        self.client = FileClient([port], KEY, random.Random(0))

    def create(self, content: bytes, purpose: str = "user_data") -> Reply:
        return self.client.send_file(FILES, {"purpose": purpose}, content)

    def has(self, id: str, content: bytes) -> bool:
        return self.client.content(f"{FILES}/{id}/content") == (200, content)

    def files(self) -> list[str]:
        return [file["id"] for file in self.client.pages(FILES)]


@contextmanager
def scene(*, has_database: bool) -> Iterator[Scene]:
    """`has_database`: the database is on the small disk, too, not only the blobs."""
    with tempfile.TemporaryDirectory() as name, digest_worker() as worker:
        disk, large = Path(name) / "disk", Path(name) / "large"
        disk.mkdir()
        large.mkdir()
        port = free_port()
        database = (disk if has_database else large) / "store.db"
        options = ("--store", f"sqlite:///{database}", "--blobs", str(disk / "blobs"), "--api-key", KEY)
        process = Process(
            *("unshare", "--user", "--map-root-user", "--mount"),
            *("sh", "-ec", MOUNT, f"{DISK_MIB}m", str(disk)),
            *(sys.executable, "-m", "openai_server", "--port", str(port), "--anyserve-endpoint", worker, *options),
        )
        try:
            url = f"http://127.0.0.1:{port}"
            body: dict[str, Any] = {"input": "hi", "store": False}
            is_ready = eventually(lambda: post(url, body, "/v1/responses", key=KEY).good, READY_SECONDS)
            assert is_ready, process.output
            at = Scene(process, port, Disk(process.popen.pid, disk))
            try:
                yield at
            finally:
                at.client.close()
        finally:
            process.end()


def full_blobs() -> list[str]:
    """The folder of the blobs is full. Returns what is wrong."""
    problems = Problems()
    with scene(has_database=False) as at:
        first = os.urandom(MIB)
        kept = at.create(first).body["id"]
        free = at.disk.free_bytes
        problems.expect_full(at.create(bytes(2 * DISK_MIB * MIB)), "a file larger than the disk")
        problems.expect(at.disk.free_bytes == free, f"{free - at.disk.free_bytes} bytes of it are left on the disk")
        problems.expect(at.files() == [kept], f"the files are {at.files()}")
        problems.expect(at.has(kept, first), "the file from before is lost")
        _upload(at, problems)
        _batch(at, problems)
        problems.expect(at.has(kept, first), "the file from before is lost")
        at.disk.fill()
        deleted = at.client.call("DELETE", f"{FILES}/{kept}")
        problems.expect(deleted.status == 200, f"a deletion on a full disk: {deleted}")
        problems.expect(at.create(first).status == 200, "a deletion makes no room")
        problems.expect("Traceback" not in at.process.output, at.process.output[-2000:])
    return problems.found


def _upload(at: Scene, problems: "Problems") -> None:
    """A part that doesn't fit is sent again later."""
    parts = [os.urandom(MIB), os.urandom(MIB // 2)]
    n_bytes = sum(map(len, parts))
    fields = {"bytes": n_bytes, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
    path = f"{UPLOADS}/{at.client.call('POST', UPLOADS, fields).body['id']}"

    def add(part: bytes) -> Reply:
        return at.client.send_file(f"{path}/parts", {}, part, name="data")

    ids = [add(parts[0]).body["id"]]
    at.disk.fill()
    problems.expect_full(add(parts[1]), "a part on a full disk")
    at.disk.make_room()
    ids.append(add(parts[1]).body["id"])
    md5 = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
    at.disk.fill(0)  # completing takes no room for blobs
    done = at.client.call("POST", f"{path}/complete", {"part_ids": ids, "md5": md5})
    at.disk.make_room()
    if problems.expect(done.status == 200, f"completion on a full disk: {done}"):
        id = done.body["file"]["id"]
        problems.expect(at.has(id, b"".join(parts)), "the upload has other bytes")
        at.client.call("DELETE", f"{FILES}/{id}")


def _batch(at: Scene, problems: "Problems") -> None:
    """A batch whose output doesn't fit ends when there is room."""
    lines = "".join(
        f'{{"custom_id": "{n}", "method": "POST", "url": "/v1/completions", '
        f'"body": {{"model": "{MODEL}", "prompt": "{n}"}}}}\n'
        for n in range(400)
    )
    file = at.create(lines.encode(), "batch").body["id"]
    at.disk.fill(0)
    body = {"input_file_id": file, "endpoint": "/v1/completions", "completion_window": "24h"}
    path = f"{BATCHES}/{at.client.call('POST', BATCHES, body).body['id']}"

    def state() -> Any:
        return at.client.call("GET", path).body

    if not eventually(lambda: state()["status"] == "finalizing", RECOVERY_SECONDS):
        problems.expect(False, f"the batch isn't finalized: {state()}")
    at.disk.make_room()
    if problems.expect(eventually(lambda: state()["status"] == "completed", RECOVERY_SECONDS), f"it is {state()}"):
        _, content = at.client.content(f"{FILES}/{state()['output_file_id']}/content")
        problems.expect(len(content.splitlines()) == 400, f"it has {len(content.splitlines())} lines")


def full_database() -> list[str]:
    """The database's disk is full, too. Returns what is wrong."""
    problems = Problems()
    with scene(has_database=True) as at:
        content = os.urandom(MIB)
        kept = at.create(content).body["id"]
        at.disk.fill(0)
        seen: set[int] = set()
        for n in range(200):
            reply = at.client.send("POST", "/v1/conversations", {"metadata": {"x": f"{n} " * 200}})
            seen.add(reply.status)
            if reply.status == 503:
                code = reply.body["error"]["code"]
                problems.expect(code == "store_unavailable", f"a full database: {reply}")
                break
        problems.expect(503 in seen, f"the database is not full: {seen}")
        problems.expect_refused(lambda: at.create(bytes(1000)))
        at.disk.make_room()
        is_back = eventually(lambda: _works(lambda: at.create(content[:1000]).status == 200), RECOVERY_SECONDS)
        problems.expect(is_back, "nothing can be stored after room was made")
        problems.expect(at.has(kept, content), "the file from before is lost")
        problems.expect("Traceback" not in at.process.output, at.process.output[-2000:])
    return problems.found


def _works(attempt: Callable[[], bool]) -> bool:
    try:
        return attempt()
    except Cut:
        return False


class Problems:
    def __init__(self) -> None:
        self.found: list[str] = []

    def expect(self, condition: bool, problem: str) -> bool:
        if not condition:
            self.found.append(problem)
        return condition

    def expect_full(self, reply: Reply, name: str) -> None:
        code = (reply.body.get("error") or {}).get("code")
        self.expect((reply.status, code) == (507, "insufficient_storage"), f"{name}: {reply}")

    def expect_refused(self, send: Callable[[], Reply]) -> None:
        """By 507 or, which raises Cut, 503."""
        try:
            reply = send()
        except Cut:
            return
        self.expect_full(reply, "a file on a full disk")


@click.command()
def main() -> None:
    """Exit status 1 if something is lost, or if an error isn't clear."""
    began = time.monotonic()
    problems = [*full_blobs(), *full_database()]
    click.echo(f"{len(problems)} problems, {time.monotonic() - began:.0f} s")
    for problem in problems:
        click.echo(problem, err=True)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
