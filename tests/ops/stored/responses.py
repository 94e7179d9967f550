"""Requests for responses: in each form, and of stored ones."""

import time
from typing import Any

from tests.ops.stored.client import ENDS, Reply
from tests.ops.stored.digest_worker import REFUSED
from tests.ops.stored.model import Announced, Block, Conversation, Deletion, Fate, repeated, text_of
from tests.ops.stored.visitor import MODEL, RESPONSES, STORE_AWAY, Visitor

MAX_CHAIN = 7
"""Responses of a chain of previous responses."""


def respond(visitor: Visitor) -> None:
    """A response of each kind: whole or streamed; alone, in a chain or in a conversation."""
    body, block, conversation, previous = new_response(visitor)
    is_refused = visitor.rng.random() < 0.05
    if is_refused:
        body["input"] = f"{body['input']} {REFUSED}"
        block.texts = [body["input"]]
        block.fate = Fate.REFUSED
    if conversation is not None and visitor.rng.random() < 0.15:
        body["store"] = False
    if visitor.rng.random() < 0.5:
        reply = _streamed(visitor, body, block, leaves=visitor.rng.random() < 0.15)
    else:
        reply = visitor.client.send("POST", RESPONSES, body)
    if reply is None:
        return
    if is_refused:
        if reply.status == 200:
            visitor.expect(reply.body["status"] == "failed", f"a refused request: {reply}")
        return
    if _is_gone(visitor, reply, conversation, previous):
        block.fate = Fate.REFUSED
    elif reply.status == STORE_AWAY:
        visitor.counts[f"status {reply.status}"] += 1
    elif visitor.expect(reply.status == 200, f"a response: {reply}"):
        _announce(visitor, reply.body, body, block, conversation, previous)


def new_response(visitor: Visitor) -> tuple[dict[str, Any], Block, Conversation | None, Announced | None]:
    """The body of a request, the block that it adds, and what it continues."""
    text = visitor.new_text()
    block = Block([text], time.monotonic())
    body: dict[str, Any] = {"model": MODEL, "input": text}
    conversation: Conversation | None = None
    previous: Announced | None = None
    base = visitor.rng.random()
    with visitor.account.lock:
        if base < 0.35 and visitor.account.recent:
            previous = visitor.rng.choice(visitor.account.recent)
            body["previous_response_id"] = previous.id
        elif base < 0.8 and (active := visitor.account.active()):
            conversation = visitor.rng.choice(active)
            body["conversation"] = conversation.id
            conversation.blocks.append(block)
    return body, block, conversation, previous


def _streamed(visitor: Visitor, body: dict[str, Any], block: Block, *, leaves: bool) -> Reply | None:
    """The last reply of the stream, with its response. None: this client has left before."""
    n_events = visitor.rng.randrange(1, 12) if leaves else 0
    events = visitor.client.events("POST", RESPONSES, {**body, "stream": True})
    id = ""
    for number, reply in enumerate(events):
        if reply.status != 200:
            return reply
        event = reply.body
        visitor.expect(event["sequence_number"] == number, f"event {number} of a stream: {reply}")
        if event["type"] == "response.created" and body.get("store", True):
            id = event["response"]["id"]
            with visitor.account.lock:
                visitor.account.begun[id] = block
        if number + 1 == n_events:
            events.close()
            return None
    visitor.expect(event["type"] in ENDS, f"a stream that ends with {event}")
    with visitor.account.lock:
        visitor.account.begun.pop(id, None)
    return Reply(200, event["response"])


def _announce(
    visitor: Visitor,
    response: dict[str, Any],
    body: dict[str, Any],
    block: Block,
    conversation: Conversation | None,
    previous: Announced | None,
) -> None:
    is_stored = body.get("store", True)
    visitor.expect(response["store"] is is_stored, f"store is not {is_stored}: {response}")
    visitor.expect(response["status"] in ("completed", "incomplete"), f"the status of {response}")
    with visitor.account.lock:
        block.answer_id = response["output"][0]["id"]
        block.ended = time.monotonic()
        block.fate = Fate.ANNOUNCED
        if not is_stored:
            return
        visitor.expect(response["id"] not in visitor.account.responses, f"a second response {response['id']}")
        announced = Announced(response, body["input"], previous, conversation, block.ended)
        visitor.account.responses[announced.id] = announced
        if len(announced.chain) < MAX_CHAIN:
            visitor.account.recent = [*visitor.account.recent[-20:], announced]


def _is_gone(visitor: Visitor, reply: Reply, conversation: Conversation | None, previous: Announced | None) -> bool:
    """Whether the request was refused since a client has deleted what it continues."""
    if reply.status != 404:
        return False
    deletions = {Deletion.NONE}
    if conversation is not None:
        deletions.add(conversation.deletion)
    elif previous is not None:
        oldest = previous.chain[-1].conversation
        deletions |= {previous.deletion, *([] if oldest is None else [oldest.deletion])}
    return visitor.expect(deletions != {Deletion.NONE}, f"what exists was not found: {reply}")


def retrieve(visitor: Visitor) -> None:
    if (announced := _any_response(visitor)) is None:
        return
    id = announced.id
    was_deleted = announced.deletion
    reply = visitor.client.send("GET", f"{RESPONSES}/{id}")
    if reply.status == 200:
        visitor.expect(was_deleted is not Deletion.ANNOUNCED, f"{id} was deleted")
        visitor.expect(reply.body == announced.body, f"announced as {announced.body}, but stored as {reply.body}")
    elif reply.status != 503:
        visitor.expect(reply.status == 404, f"{id}: {reply}")
        visitor.expect(announced.deletion is not Deletion.NONE, f"{id} is lost")


def list_input(visitor: Visitor) -> None:
    if (announced := _any_response(visitor)) is None:
        return
    try:
        items = visitor.client.pages(f"{RESPONSES}/{announced.id}/input_items", visitor.rng.choice([1, 3, 50]))
    except LookupError as error:
        is_changed = "item_not_found" in str(error) and announced.has_lost_history
        is_gone = announced.deletion is not Deletion.NONE
        visitor.expect(is_changed or is_gone or "503" in str(error), f"input of {announced}: {error}")
        return
    visitor.expect(not repeated(item["id"] for item in items), f"input items twice: {items}")
    visitor.expect(text_of(items[-1]) == announced.text, f"the last input item of {announced}: {items}")


def delete_response(visitor: Visitor) -> None:
    with visitor.account.lock:
        candidates = [
            announced
            for announced in list(visitor.account.responses.values())[-50:]
            if announced.deletion is Deletion.NONE
        ]
        if not candidates:
            return
        announced = visitor.rng.choice(candidates)
        announced.deletion = Deletion.CUT
        if announced in visitor.account.recent:
            visitor.account.recent.remove(announced)
    reply = visitor.client.send("DELETE", f"{RESPONSES}/{announced.id}")
    visitor.expect(reply.status in (200, STORE_AWAY), f"deletion of {announced.id}: {reply}")
    if reply.status == 200:
        announced.deletion = Deletion.ANNOUNCED


def _any_response(visitor: Visitor) -> Announced | None:
    with visitor.account.lock:
        responses = list(visitor.account.responses.values())
    return visitor.rng.choice(responses[-visitor.rng.choice([3, 30, 1000]) :]) if responses else None
