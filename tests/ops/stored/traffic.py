"""Clients that use the store in every way, each in a thread, and record what was announced to them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tests.ops.stored import background, conversations, responses
from tests.ops.stored.account import Account
from tests.ops.stored.visiting import visiting
from tests.ops.stored.visitor import CONVERSATIONS, MODEL, RESPONSES, Visitor, message

CLIENTS_PER_KEY = 4


def try_another_key(visitor: Visitor) -> None:
    """Requests objects of another key, which must be the same as objects that don't exist."""
    stranger = visitor.stranger
    with stranger.lock:
        responses = list(stranger.responses)[-20:]
        conversations = list(stranger.conversations)[-20:]
    requests: list[tuple[str, str, Any]] = []
    for id in responses[-2:]:
        requests += [
            ("GET", f"{RESPONSES}/{id}", None),
            ("GET", f"{RESPONSES}/{id}/input_items", None),
            ("DELETE", f"{RESPONSES}/{id}", None),
            ("POST", RESPONSES, {"model": MODEL, "input": visitor.new_text(), "previous_response_id": id}),
        ]
    for id in conversations[-2:]:
        requests += [
            ("GET", f"{CONVERSATIONS}/{id}", None),
            ("GET", f"{CONVERSATIONS}/{id}/items", None),
            ("DELETE", f"{CONVERSATIONS}/{id}", None),
            ("POST", f"{CONVERSATIONS}/{id}/items", {"items": [message(visitor.new_text())]}),
            ("POST", RESPONSES, {"model": MODEL, "input": visitor.new_text(), "conversation": id}),
        ]
    if requests:
        method, path, body = visitor.rng.choice(requests)
        reply = visitor.client.send(method, path, body)
        visitor.expect(reply.status in (404, 503), f"{method} {path} of another key: {reply}")


KINDS: dict[Callable[[Visitor], None], int] = {
    responses.respond: 40,
    responses.retrieve: 10,
    responses.list_input: 6,
    responses.delete_response: 6,
    conversations.create_conversation: 6,
    conversations.add_items: 12,
    conversations.list_items: 4,
    conversations.delete_item: 6,
    conversations.delete_conversation: 1,
    background.run_in_background: 8,
    background.follow_in_background: 3,
    background.cancel: 2,
    try_another_key: 6,
}
"""Relative frequency of each kind of request."""


@contextmanager
def visited(
    ports: Sequence[int], accounts: Sequence[Account], seed: int, *, interval: float = 0
) -> Iterator[Sequence[Visitor]]:
    """Yields clients of two accounts, which send requests until the block ends. `interval`: least seconds between two
    requests of one client."""
    visitors = [
        Visitor(f"client {number} of {account.key}", f"{seed} {account.key} {number}", ports, account, stranger)
        for account, stranger in (accounts, reversed(accounts))
        for number in range(CLIENTS_PER_KEY)
    ]
    with visiting(visitors, KINDS, interval=interval):
        yield visitors
