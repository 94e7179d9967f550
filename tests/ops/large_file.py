"""`python -m tests.ops.large_file`: sends and reads a file of 512 MB, whole and in parts.

The peak of the sidecar's resident memory is measured. Where a cgroup can be made, the kernel limits it, too.
"""

import hashlib
import http.client
import json
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.databases import SQLITE, database
from tests.ops.filed.client import BOUNDARY, form
from tests.ops.filed.visitor import FILES, UPLOADS
from tests.ops.stored.pair import storing_sidecars

KEY = "key-of-large-files"
LIMIT_MIB = 200
MIB = 1 << 20
PIECE = MIB
PART = 64 * MIB
TIMEOUT_SECONDS = 600.0
PARALLEL_PARTS = 2
MEMORY_CGROUPS = Path("/sys/fs/cgroup/memory")


@dataclass
class Figures:
    peak_mib: float = 0.0
    """Peak of the sidecar's resident memory, shared libraries included."""
    at_rest_mib: float = 0.0
    """The same before the first file."""
    is_limited: bool = False
    """Whether the kernel limited it to LIMIT_MIB, page cache included."""
    problems: list[str] = field(default_factory=list)


class Content:
    """Bytes without repetition, made piece by piece."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes
        self._pattern = hashlib.shake_128(b"pattern").digest(PIECE - 32)

    def pieces(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Both must be multiples of PIECE, except for the end of the content."""
        end = self.n_bytes if end is None else end
        for place in range(start, end, PIECE):
            piece = hashlib.sha256(str(place).encode()).digest() + self._pattern
            yield piece[: min(PIECE, end - place)]

    def digest(self, name: str) -> str:
        found = hashlib.new(name, usedforsecurity=False)
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()


class Client:
    def __init__(self, port: int) -> None:
        self._port = port

    def send(self, method: str, path: str, body: object = None) -> Any:
        content = None if body is None else json.dumps(body)
        return self._json(method, path, content, {"content-type": "application/json"})

    def send_file(self, path: str, fields: Mapping[str, str], name: str, pieces: Iterator[bytes], n_bytes: int) -> Any:
        head, tail = form(fields, name, "large.bin", b"\0").split(b"\0")
        headers = {
            "content-type": f"multipart/form-data; boundary={BOUNDARY}",
            "content-length": str(len(head) + n_bytes + len(tail)),
        }

        def body() -> Iterator[bytes]:
            yield head
            yield from pieces
            yield tail

        return self._json("POST", path, body(), headers)

    def digest(self, path: str) -> str:
        """SHA-256 of the content."""
        found = hashlib.sha256()
        with self._response("GET", path, None, {}) as response:
            while piece := response.read(PIECE):
                found.update(piece)
        return found.hexdigest()

    def _json(self, method: str, path: str, body: Any, headers: Mapping[str, str]) -> Any:
        with self._response(method, path, body, headers) as response:
            return json.loads(response.read())

    @contextmanager
    def _response(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Raises AssertionError for a status other than 200."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(method, path, body, {"authorization": f"Bearer {KEY}", **headers})
            response = connection.getresponse()
            if response.status != 200:
                raise AssertionError(f"{method} {path}: {response.status} {response.read()[:500]!r}")
            yield response
        finally:
            connection.close()


def peak_mib(pid: int) -> float:
    """Peak of the process' resident memory."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def run(n_bytes: int, *, limited: bool = True, part: int = PART) -> Figures:
    """Sends a file of this size to a sidecar with a store, whole and in parts, and reads it."""
    figures = Figures()
    content = Content(n_bytes)
    sha256 = content.digest("sha256")
    with (
        tempfile.TemporaryDirectory() as folder,
        database(SQLITE) as store,
        storing_sidecars(1, store.url, [KEY], "--blobs", f"{folder}/blobs") as sidecars,
    ):
        sidecars.start_all(KEY)
        [port] = sidecars.ports
        pid = sidecars.pid(port)
        figures.at_rest_mib = peak_mib(pid)
        with _limited(pid, enabled=limited) as figures.is_limited:
            client = Client(port)
            for id in (_sent_whole(client, content), _sent_in_parts(client, content, part)):
                if client.digest(f"{FILES}/{id}/content") != sha256:
                    figures.problems.append(f"{id} has other bytes than were sent")
                client.send("DELETE", f"{FILES}/{id}")
            figures.peak_mib = peak_mib(pid)
        left = [file for file in Path(folder).rglob("??/*") if file.is_file()]
        if left:
            figures.problems.append(f"blobs of deleted files are left: {left}")
    figures.problems += sidecars.errors
    return figures


def _sent_whole(client: Client, content: Content) -> str:
    file = client.send_file(FILES, {"purpose": "user_data"}, "file", content.pieces(), content.n_bytes)
    return str(file["id"])


def _sent_in_parts(client: Client, content: Content, part: int) -> str:
    """Several parts at a time, the last one first."""
    body = {"bytes": content.n_bytes, "filename": "x", "mime_type": "text/plain", "purpose": "user_data"}
    upload = client.send("POST", UPLOADS, body)
    path = f"{UPLOADS}/{upload['id']}"
    starts = list(range(0, content.n_bytes, part))[::-1]
    ids: dict[int, str] = {}
    lock = threading.Lock()

    def send_parts() -> None:
        while True:
            with lock:
                if not starts:
                    return
                start = starts.pop(0)
            end = min(start + part, content.n_bytes)
            sent = client.send_file(f"{path}/parts", {}, "data", content.pieces(start, end), end - start)
            ids[start] = sent["id"]

    threads = [threading.Thread(target=send_parts) for _ in range(PARALLEL_PARTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    part_ids = [ids[start] for start in sorted(ids)]
    done = client.send("POST", f"{path}/complete", {"part_ids": part_ids, "md5": content.digest("md5")})
    return str(done["file"]["id"])


@contextmanager
def _limited(pid: int, *, enabled: bool) -> Iterator[bool]:
    """Limits the process' memory and page cache by a cgroup (version 1), if one can be made. Yields whether it does."""
    group = MEMORY_CGROUPS / f"large-file-{pid}"
    try:
        if not enabled:
            raise PermissionError
        group.mkdir()
    except OSError:
        yield False
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(LIMIT_MIB * MIB))
        (group / "cgroup.procs").write_text(str(pid))
        yield True
    finally:
        (MEMORY_CGROUPS / "cgroup.procs").write_text(str(pid))
        group.rmdir()


@click.command()
@click.option("--megabytes", default=512, show_default=True, help="Size of the file, in MiB.")
def main(megabytes: int) -> None:
    """Exit status 1 if the sidecar takes more than 200 MiB, or if a byte is wrong."""
    figures = run(megabytes * MIB)
    click.echo(f"peak {figures.peak_mib:.1f} MiB, {figures.at_rest_mib:.1f} MiB at rest, cgroup: {figures.is_limited}")
    if figures.peak_mib > LIMIT_MIB:
        figures.problems.append(f"the peak is above {LIMIT_MIB} MiB")
    for problem in figures.problems:
        click.echo(problem, err=True)
    sys.exit(bool(figures.problems))


if __name__ == "__main__":
    main()
