"""The objects that were announced to the clients of one key."""

import threading

from tests.ops.stored.model import Announced, Block, Conversation, Deletion

MAX_BLOCKS = 40
"""Blocks of a conversation, after which clients leave it."""


class Account:
    """All that was announced to the clients of one key, which share it."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.lock = threading.Lock()
        self.responses: dict[str, Announced] = {}
        self.begun: dict[str, Block] = {}
        """Ids of responses whose end was not announced, by id."""
        self.background: dict[str, Block] = {}
        """Responses that were announced as queued, by id."""
        self.conversations: dict[str, Conversation] = {}
        self.recent: list[Announced] = []
        """Responses that clients continue."""

    def active(self) -> list[Conversation]:
        return [
            conversation
            for conversation in self.conversations.values()
            if conversation.deletion is Deletion.NONE and len(conversation.blocks) < MAX_BLOCKS
        ]

    def forget(self, before: float) -> None:
        """Forgets what was announced before this time, so that clients don't use it any more."""
        with self.lock:
            self.responses = {id: known for id, known in self.responses.items() if known.time >= before}
            self.conversations = {id: known for id, known in self.conversations.items() if known.time >= before}
            self.begun = {id: block for id, block in self.begun.items() if block.began >= before}
            self.background = {id: block for id, block in self.background.items() if block.began >= before}
            self.recent = [known for known in self.recent if known.time >= before]
