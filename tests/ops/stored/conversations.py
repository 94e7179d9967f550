"""Requests for conversations and their items."""

import time

from tests.ops.stored.model import Block, Conversation, Deletion, Fate, listed, repeated, text_of
from tests.ops.stored.visitor import CONVERSATIONS, STORE_AWAY, Visitor, message

N_CONVERSATIONS = 3
"""Conversations that the clients of one key use at the same time."""


def create_conversation(visitor: Visitor) -> None:
    with visitor.account.lock:
        if len(visitor.account.active()) >= N_CONVERSATIONS:
            return
    block = _new_block(visitor, visitor.rng.randrange(3))
    body = {"items": [message(text) for text in block.texts], "metadata": {"made": "here"}}
    reply = visitor.client.send("POST", CONVERSATIONS, body)
    if reply.status == STORE_AWAY:
        return
    if visitor.expect(reply.status == 200, f"a new conversation: {reply}"):
        block.fate, block.ended = Fate.ANNOUNCED, time.monotonic()
        with visitor.account.lock:
            visitor.account.conversations[reply.body["id"]] = Conversation(
                reply.body["id"], block.ended, [block] if block.texts else []
            )


def add_items(visitor: Visitor) -> None:
    block = _new_block(visitor, visitor.rng.randrange(1, 4))
    with visitor.account.lock:
        if not (active := visitor.account.active()):
            return
        conversation = visitor.rng.choice(active)
        conversation.blocks.append(block)
    body = {"items": [message(text) for text in block.texts]}
    reply = visitor.client.send("POST", f"{CONVERSATIONS}/{conversation.id}/items", body)
    if reply.status == 404:
        visitor.expect(conversation.deletion is not Deletion.NONE, f"{conversation.id} is lost: {reply}")
        block.fate = Fate.REFUSED
    elif reply.status != STORE_AWAY and visitor.expect(reply.status == 200, f"new items: {reply}"):
        with visitor.account.lock:
            block.ids = [item["id"] for item in reply.body["data"]]
            block.fate, block.ended = Fate.ANNOUNCED, time.monotonic()
        visitor.expect([text_of(item) for item in reply.body["data"]] == block.texts, f"other items: {reply}")


def list_items(visitor: Visitor) -> None:
    with visitor.account.lock:
        if not visitor.account.conversations:
            return
        conversation = visitor.rng.choice(list(visitor.account.conversations.values()))
    try:
        items = visitor.client.pages(f"{CONVERSATIONS}/{conversation.id}/items", visitor.rng.choice([2, 20, 100]))
    except LookupError as error:
        visitor.expect(conversation.deletion is not Deletion.NONE or "503" in str(error), f"{conversation.id}: {error}")
        return
    visitor.expect(not repeated(listed(item).id for item in items), f"items twice: {items}")


def delete_item(visitor: Visitor) -> None:
    with visitor.account.lock:
        candidates = [
            (conversation, block, place, id)
            for conversation in visitor.account.active()
            for block in conversation.blocks
            if block.fate is Fate.ANNOUNCED
            for place, id in _known_ids(block)
            if block.deletion(place) is Deletion.NONE
        ]
        if not candidates:
            return
        conversation, block, place, id = visitor.rng.choice(candidates)
        block.deletions[place] = Deletion.CUT
    reply = visitor.client.send("DELETE", f"{CONVERSATIONS}/{conversation.id}/items/{id}")
    if reply.status == 200:
        block.deletions[place] = Deletion.ANNOUNCED
    elif reply.status != STORE_AWAY:
        visitor.expect(conversation.deletion is not Deletion.NONE, f"{id} in {conversation.id} is lost: {reply}")


def delete_conversation(visitor: Visitor) -> None:
    with visitor.account.lock:
        active = visitor.account.active()
        if len(active) < N_CONVERSATIONS:
            return
        conversation = visitor.rng.choice(active)
        conversation.deletion = Deletion.CUT
    reply = visitor.client.send("DELETE", f"{CONVERSATIONS}/{conversation.id}")
    if visitor.expect(reply.status in (200, STORE_AWAY), f"deletion of {conversation.id}: {reply}"):
        conversation.deletion = Deletion.ANNOUNCED if reply.status == 200 else Deletion.CUT


def _new_block(visitor: Visitor, n: int) -> Block:
    return Block([visitor.new_text() for _ in range(n)], time.monotonic(), has_answer=False)


def _known_ids(block: Block) -> list[tuple[int, str]]:
    """Places and ids of the items whose ids were announced."""
    known = list(enumerate(block.ids))
    return [*known, (len(block.texts), block.answer_id)] if block.answer_id is not None else known
