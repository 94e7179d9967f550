"""Requests for batches."""

import threading
import time
from collections.abc import Mapping
from typing import Any

from tests.ops.filed.files import send_file
from tests.ops.filed.ledger import FINAL, KnownBatch, Line
from tests.ops.filed.visitor import BATCHES, FILES, MODEL, FileVisitor
from tests.ops.stored.digest_worker import REFUSED, answer, prompt
from tests.ops.stored.model import Deletion

CHAT, COMPLETIONS, EMBEDDINGS = "/v1/chat/completions", "/v1/completions", "/v1/embeddings"
RESPONSES, MESSAGES = "/v1/responses", "/v1/messages"
MAX_LINES = 60
FOLLOW_SECONDS = 3.0
POLL_SECONDS = 0.05
LAST_LINES = 5
"""Number of lines left, from which on a batch is about to end."""


def _body(url: str, text: str) -> tuple[dict[str, Any], str]:
    """The body of a request, and the prompt that the worker gets."""
    chat = [{"role": "user", "content": text}]
    rendered = prompt([("user", text)])
    match url:
        case "/v1/chat/completions":
            return {"messages": chat}, rendered
        case "/v1/messages":
            return {"messages": chat, "max_tokens": 64}, rendered
        case "/v1/responses":
            return {"input": text}, rendered
        case "/v1/completions":
            return {"prompt": text}, text
    return {"input": text}, text


def text_of(url: str, body: Mapping[str, Any]) -> Any:
    """The worker's answer, from the body of a response."""
    match url:
        case "/v1/chat/completions":
            return body["choices"][0]["message"]["content"]
        case "/v1/messages":
            return body["content"][0]["text"]
        case "/v1/responses":
            return body["output"][0]["content"][0]["text"]
        case "/v1/completions":
            return body["choices"][0]["text"]
    return body["data"][0]["embedding"]


def new_lines(visitor: FileVisitor, name: str, url: str, n: int) -> list[Line]:
    lines = []
    for number in range(n):
        is_refused = visitor.rng.random() < 0.05
        text = f"{name} {number}{f' {REFUSED}' if is_refused else ''}"
        body, rendered = _body(url, text)
        lines.append(Line(f"{name}/{number}", url, {"model": MODEL, **body}, None if is_refused else answer(rendered)))
    visitor.rng.shuffle(lines)
    return lines


def run_batch(visitor: FileVisitor) -> None:
    """Creates a batch of random size, and follows it for a while."""
    name = visitor.new_name()
    url = visitor.rng.choice([CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, MESSAGES])
    lines = new_lines(visitor, name, url, visitor.rng.choice([1, 12, visitor.rng.randint(1, MAX_LINES)]))
    is_valid = visitor.rng.random() > 0.1
    content = b"\n".join(line.json for line in lines) + b"\n"
    if not is_valid:
        content += visitor.rng.choice([b"{\n", lines[0].json + b"\n", b'{"custom_id": "x"}\n'])
    if (file := send_file(visitor, content, "batch", is_reserved=True)) is None:
        return
    batch = KnownBatch(name, lines, file, is_valid)
    visitor.ledger.add_batch(batch)
    visitor.moments.reached("create batch")
    body = {"input_file_id": file.id, "endpoint": url, "completion_window": "24h", "metadata": {"name": name}}
    reply = visitor.client.call("POST", BATCHES, body)
    if visitor.expect(reply.status == 200, f"a new batch: {reply}"):
        batch.id = reply.body["id"]
        file.is_reserved = False
        _follow(visitor, batch)


def _follow(visitor: FileVisitor, batch: KnownBatch) -> None:
    """Looks at the batch until it ends, or for some seconds. Cancels some."""
    deadline = time.monotonic() + FOLLOW_SECONDS
    cancels_at = time.monotonic() + visitor.rng.uniform(0, FOLLOW_SECONDS) if visitor.rng.random() < 0.15 else deadline
    completed = 0
    while (now := time.monotonic()) < deadline:
        if now >= cancels_at:
            cancel(visitor, batch)
            return
        reply = visitor.client.call("GET", f"{BATCHES}/{batch.id}")
        if not visitor.expect(reply.status == 200, f"{batch.id}: {reply}"):
            return
        counts = reply.body.get("request_counts") or {"total": 0, "completed": 0, "failed": 0}
        done = counts["completed"] + counts["failed"]
        visitor.expect(done >= completed, f"{batch.id} had {completed} lines, and has {done}")
        completed = done
        status = reply.body["status"]
        if status in FINAL:
            return
        if status == "validating":
            visitor.moments.reached("validation")
        elif status == "finalizing" or counts["total"] - done <= LAST_LINES:
            visitor.moments.reached("last lines")
        else:
            visitor.moments.reached("lines")
        threading.Event().wait(POLL_SECONDS)


def cancel(visitor: FileVisitor, batch: KnownBatch) -> None:
    with visitor.ledger.lock:
        if batch.cancellation is not Deletion.NONE:
            return
        batch.cancellation = Deletion.CUT
    visitor.moments.reached("cancel batch")
    reply, is_cut = visitor.client.until_answered("POST", f"{BATCHES}/{batch.id}/cancel")
    if reply.status == 200:
        is_cancelled = reply.body["status"] in ("cancelling", "cancelled", "finalizing")
        visitor.expect(is_cancelled, f"a cancelled batch: {reply}")
        batch.cancellation = Deletion.ANNOUNCED
        return
    state, _ = visitor.client.until_answered("GET", f"{BATCHES}/{batch.id}")
    is_over = reply.status == 400 and state.body["status"] in ("finalizing", *FINAL)
    visitor.expect(is_over, f"cancellation of {batch.id}, which is {state.body['status']}: {reply}")
    if state.body["status"] != "cancelled":
        batch.cancellation = Deletion.NONE
    else:
        visitor.expect(is_cut, f"{batch.id} was cancelled by nobody")


def list_batches(visitor: FileVisitor) -> None:
    before = visitor.ledger.announced_batches()
    limit = visitor.rng.choice([1, 10, 100])
    listed: list[str] = []
    after = ""
    while True:
        reply = visitor.client.call("GET", f"{BATCHES}?limit={limit}{after}")
        if not visitor.expect(reply.status == 200, f"the batches: {reply}"):
            return
        listed += [batch["id"] for batch in reply.body["data"]]
        if not reply.body["has_more"]:
            break
        after = f"&after={reply.body['last_id']}"
    visitor.expect(len(set(listed)) == len(listed), "a batch is listed twice")
    missing = {batch.id for batch in before} - set(listed)
    visitor.expect(not missing, f"batches that aren't listed: {missing}")


def try_another_key(visitor: FileVisitor) -> None:
    """Requests objects of another key, which must be the same as objects that don't exist."""
    requests: list[tuple[str, str, Any]] = []
    for file in visitor.stranger.announced_files()[-2:]:
        path = f"{FILES}/{file.id}"
        batch = {"input_file_id": file.id, "endpoint": CHAT, "completion_window": "24h"}
        requests += [("GET", path, None), ("DELETE", path, None), ("GET", f"{path}/content", None)]
        requests += [("POST", BATCHES, batch), ("GET", f"{FILES}?after={file.id}&limit=1&order=asc", None)]
    for known in visitor.stranger.announced_batches()[-2:]:
        path = f"{BATCHES}/{known.id}"
        requests += [("GET", path, None), ("POST", f"{path}/cancel", None)]
    if not requests:
        return
    method, path, body = visitor.rng.choice(requests)
    if "?after=" in path:
        _expect_own_list(visitor, path)
        return
    if path.endswith("/content"):
        status, _ = visitor.client.content(path)
    else:
        status = visitor.client.call(method, path, body).status
    allowed = (400, 404) if path == BATCHES else (404,)
    visitor.expect(status in allowed, f"{method} {path} of another key: status {status}")


def _expect_own_list(visitor: FileVisitor, path: str) -> None:
    reply = visitor.client.call("GET", path)
    if reply.status == 200:
        with visitor.stranger.lock:
            foreign = {file.id for file in visitor.stranger.files if file.id}
        visitor.expect(
            not foreign & {file["id"] for file in reply.body["data"]}, f"{path} lists another key's: {reply}"
        )
    else:
        visitor.expect(reply.status in (400, 404), f"{path}: {reply}")
