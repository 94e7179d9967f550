"""Records what the server has announced to clients, and compares it with what the store contains. PURE."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

FINAL = ("completed", "incomplete", "failed", "cancelled")
CONTINUED = ("completed", "incomplete")
"""Statuses of responses whose items are in their conversation."""


class Fate(Enum):
    """Effect of a request that changes something."""

    CUT = "cut off"
    """The client got no answer: the request took effect, completely, or had none."""
    ANNOUNCED = "announced"
    REFUSED = "refused"


class Deletion(Enum):
    NONE = "not deleted"
    CUT = "cut off"
    ANNOUNCED = "announced"


class ListedItem(NamedTuple):
    id: str
    role: str
    text: str


@dataclass(eq=False)
class Block:
    """Items that a request adds to a conversation: all of them in a row, or none. Times are those of one clock."""

    texts: Sequence[str]
    """Texts of its messages. No other block has the same."""
    began: float
    has_answer: bool = True
    """Whether an answer follows the messages."""
    fate: Fate = Fate.CUT
    ids: Sequence[str] = ()
    """Ids of the messages, if they were announced."""
    answer_id: str | None = None
    """None: no answer was announced."""
    ended: float = math.inf
    """Time of the announcement."""
    deletions: dict[int, Deletion] = field(default_factory=dict)
    """By place in the block; other items are not deleted."""

    def __len__(self) -> int:
        return len(self.texts) + self.has_answer

    def deletion(self, place: int) -> Deletion:
        return self.deletions.get(place, Deletion.NONE)

    def is_item(self, place: int, item: ListedItem) -> bool:
        if place == len(self.texts):
            return item.role == "assistant" and self.answer_id in (None, item.id)
        return item.text == self.texts[place] and (not self.ids or item.id == self.ids[place])


@dataclass(eq=False, repr=False)
class Conversation:
    id: str
    time: float
    """Time of its announcement."""
    blocks: list[Block] = field(default_factory=list)
    deletion: Deletion = Deletion.NONE

    def __repr__(self) -> str:
        return f"{self.id} ({self.deletion.value})"


@dataclass(eq=False, repr=False)
class Announced:
    """A response that was announced as stored."""

    body: Mapping[str, Any]
    text: str
    """Its own input."""
    previous: "Announced | None"
    conversation: Conversation | None
    time: float
    """Time of the announcement."""
    deletion: Deletion = Deletion.NONE

    def __repr__(self) -> str:
        base = self.previous or self.conversation
        return f"{self.id} ({self.deletion.value}), the response to {self.text!r} after {base}"

    @property
    def id(self) -> str:
        return str(self.body["id"])

    @property
    def chain(self) -> "list[Announced]":
        """This response and those before it, oldest last."""
        return [self, *(self.previous.chain if self.previous is not None else [])]

    @property
    def has_lost_history(self) -> bool:
        """Whether items of its history may have been deleted from its conversation since it was generated."""
        conversation = self.chain[-1].conversation
        return conversation is not None and (
            conversation.deletion is not Deletion.NONE or any(block.deletions for block in conversation.blocks)
        )

    @property
    def answer(self) -> str:
        return text_of(self.body["output"][0])


def text_of(item: Mapping[str, Any]) -> str:
    return "".join(part["text"] for part in item["content"])


def listed(item: Mapping[str, Any]) -> ListedItem:
    return ListedItem(item["id"], item["role"], text_of(item))


def repeated(ids: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return [id for id in ids if id in seen or seen.add(id)]  # type: ignore[func-returns-value]


def problems_of_items(blocks: Sequence[Block], items: Sequence[ListedItem]) -> list[str]:
    """Compares the items of a conversation, oldest first, with the blocks that requests have added."""
    problems = [f"item {id} is there twice" for id in repeated(item.id for item in items)]
    by_text = {text: block for block in blocks for text in block.texts}
    by_answer = {block.answer_id: block for block in blocks if block.answer_id is not None}
    found: list[Block] = []
    place = 0
    while place < len(items):
        item = items[place]
        block = by_text.get(item.text) or by_answer.get(item.id)
        if block is None:
            problems.append(f"{item} is from no request")
            place += 1
        elif block in found:
            problems.append(f"{item} is there twice, or not beside the other items of its request")
            place += 1
        else:
            found.append(block)
            n, faults = _block_at(block, items[place : place + len(block)])
            problems += faults
            place += max(n, 1)
    for block in blocks:
        kept = [place for place in range(len(block)) if block.deletion(place) is Deletion.NONE]
        if block.fate is Fate.ANNOUNCED and kept and block not in found:
            problems.append(f"items of {block} are lost")
    return problems + _problems_of_order(found)


def _block_at(block: Block, items: Sequence[ListedItem]) -> tuple[int, list[str]]:
    """Compares the items from the first of the block on. Returns how many belong to it, and what is wrong."""
    problems = [f"{items[0]} is from a request that was refused"] if block.fate is Fate.REFUSED else []
    n = 0
    for place in range(len(block)):
        deletion = block.deletion(place)
        if n < len(items) and block.is_item(place, items[n]):
            n += 1
            if deletion is Deletion.ANNOUNCED:
                problems.append(f"item {place} of {block} was deleted")
        elif deletion is Deletion.NONE:
            problems.append(f"item {place} of {block} is lost, or not beside the others")
    return n, problems


def _problems_of_order(blocks: Sequence[Block]) -> list[str]:
    """A block that was announced before another one was requested must come first."""
    problems = []
    latest = -math.inf
    for block in blocks:
        if block.ended < latest:
            problems.append(f"{block} comes after one that was requested later")
        latest = max(latest, block.began)
    return problems
