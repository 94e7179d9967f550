"""Requests for background responses."""

import time
from typing import Any

from tests.ops.stored.client import ENDS, Cut
from tests.ops.stored.model import FINAL
from tests.ops.stored.responses import new_response
from tests.ops.stored.visitor import RESPONSES, STORE_AWAY, Visitor

FOLLOW_SECONDS = 50.0
"""Longest time in which a background response ends, although its runners are killed."""


def run_in_background(visitor: Visitor) -> None:
    """Queues a response, which the checks at the end retrieve."""
    body, block, _, _ = new_response(visitor)
    reply = visitor.client.send("POST", RESPONSES, {**body, "background": True})
    if reply.status == 200:
        visitor.expect(reply.body["status"] in ("queued", "in_progress", *FINAL), f"a queued response: {reply}")
        with visitor.account.lock:
            visitor.account.background[reply.body["id"]] = block
    elif reply.status != STORE_AWAY:
        visitor.expect(reply.status == 404, f"a background response: {reply}")


def follow_in_background(visitor: Visitor) -> None:
    """Streams a background response, and resumes the stream where it was cut off."""
    body, block, _, _ = new_response(visitor)
    request: dict[str, Any] | None = {**body, "background": True, "stream": True}
    method, path, number, id = "POST", RESPONSES, -1, ""
    deadline = time.monotonic() + FOLLOW_SECONDS
    while time.monotonic() < deadline:
        try:
            for reply in visitor.client.events(method, path, request):
                if reply.status in (404, STORE_AWAY):
                    return
                if not visitor.expect(reply.status == 200, f"a background stream: {reply}"):
                    return
                event = reply.body
                number += 1
                visitor.expect(event["sequence_number"] == number, f"event {number} of background {id}: {event}")
                if "response" in event:
                    id = event["response"]["id"]
                    with visitor.account.lock:
                        visitor.account.background[id] = block
            if event["type"] not in ENDS:
                state = visitor.client.send("GET", f"{RESPONSES}/{id}")
                visitor.expect(state.body["status"] == "cancelled", f"the stream has no end: {state}")
            return
        except Cut:
            if not id:
                raise
            visitor.counts["resumed"] += 1
            method, request = "GET", None
            path = f"{RESPONSES}/{id}?stream=true&starting_after={number}"
    state = visitor.client.send("GET", f"{RESPONSES}/{id}")
    visitor.expect(False, f"the stream of a background response, {path}, doesn't end: {state}")


def cancel(visitor: Visitor) -> None:
    with visitor.account.lock:
        if not visitor.account.background:
            return
        id = visitor.rng.choice(list(visitor.account.background)[-8:])
    reply = visitor.client.send("POST", f"{RESPONSES}/{id}/cancel")
    if reply.status != STORE_AWAY and visitor.expect(reply.status == 200, f"cancellation of {id}: {reply}"):
        visitor.expect(reply.body["status"] in FINAL, f"a cancelled response: {reply}")
