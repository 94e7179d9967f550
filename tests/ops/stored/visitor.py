"""A client that requests at random, with what it records."""

from collections.abc import Sequence
from typing import Any

from tests.ops.stored.account import Account
from tests.ops.stored.client import StoreClient
from tests.ops.stored.visiting import RandomClient

RESPONSES, CONVERSATIONS = "/v1/responses", "/v1/conversations"
MODEL = "tiny"
STORE_AWAY = 503
"""Status after which it is open whether a request took effect."""


class Visitor(RandomClient):
    def __init__(self, name: str, seed: str, ports: Sequence[int], account: Account, stranger: Account) -> None:
        super().__init__(name, seed)
        self.client = StoreClient(ports, account.key, self.rng)
        self.account = account
        self.stranger = stranger
        """The account of another key."""
        self._n_texts = 0

    def new_text(self) -> str:
        """A text that no other request has."""
        self._n_texts += 1
        return f"{self.name} {self._n_texts}"


def message(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
