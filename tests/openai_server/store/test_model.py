"""Random transactions of two owners, compared with a model of plain dicts."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from openai_server.core.store_errors import PreviousResponseNotFound, ResponseNotFound
from openai_server.store.records import CONTINUED, FINAL, NOTHING, Base, Ending, Item, NewResponse, PageRequest, Status
from openai_server.store.store import Store
from tests.openai_server.store.stores import all_pages, history_ids, opened, rows, store_url, sweep

OWNERS = ("a", "b")
STATUSES: tuple[Status, ...] = ("completed", "completed", "completed", "incomplete", "failed", "cancelled")


@dataclass
class ModelResponse:
    owner: str
    body: bytes
    base: Base
    end: int
    """Number of the items ever added to its conversation that it was generated from."""
    input: list[Item]
    output: list[Item] = field(default_factory=list)
    is_deleted: bool = False


@dataclass
class ModelConversation:
    owner: str
    metadata: bytes = b"{}"
    items: list[Item | None] = field(default_factory=list)
    """None for a deleted one."""

    def living(self, end: int | None = None) -> list[Item]:
        return [item for item in self.items[:end] if item is not None]


class Model:
    def __init__(self) -> None:
        self.responses: dict[str, ModelResponse] = {}
        self.conversations: dict[str, ModelConversation] = {}

    def living(self, owner: str) -> list[str]:
        return [id for id, row in self.responses.items() if row.owner == owner and not row.is_deleted]

    def of_owner(self, owner: str) -> list[str]:
        return [id for id, row in self.conversations.items() if row.owner == owner]

    def context(self, id: str) -> list[Item] | None:
        """The items before the response's own input. None: its conversation is lost."""
        response = self.responses[id]
        if (previous := response.base.previous_response_id) is not None:
            before = self.context(previous)
            parent = self.responses[previous]
            return None if before is None else [*before, *parent.input, *parent.output]
        if (conversation := response.base.conversation_id) is not None:
            if conversation not in self.conversations:
                return None
            return self.conversations[conversation].living(response.end)
        return []

    def needed(self) -> set[str]:
        """The living responses, and those that they continue."""
        found = set()
        for id, response in self.responses.items():
            chain: str | None = None if response.is_deleted else id
            while chain is not None:
                found.add(chain)
                chain = self.responses[chain].base.previous_response_id
        return found

    def n_bytes(self) -> int:
        """Items that a response and a conversation share are counted once: they are the same objects here."""
        items: dict[int, Item] = {}
        for id in self.needed():
            response = self.responses[id]
            items |= {id_of(item): item for item in (*response.input, *response.output)}
        for conversation in self.conversations.values():
            items |= {id_of(item): item for item in conversation.living()}
        return (
            sum(len(item.body) for item in items.values())
            + sum(len(response.body) for response in self.responses.values() if not response.is_deleted)
            + sum(len(conversation.metadata) for conversation in self.conversations.values())
        )


id_of = id
"""The identity of an object; `id` is the name of other things here."""


class Play:
    """Does the same to a store and to its model."""

    def __init__(self, store: Store, seed: int) -> None:
        self.store, self.model, self.random = store, Model(), random.Random(seed)
        self.n_names = 0

    def name(self, kind: str) -> str:
        self.n_names += 1
        return f"{kind}{self.n_names}"

    def items(self, most: int = 3) -> list[Item]:
        return [Item(self.name("i"), b"x" * self.random.randrange(200)) for _ in range(self.random.randrange(most + 1))]

    async def respond(self, owner: str) -> None:
        base, end = NOTHING, None
        kind = self.random.randrange(3)
        if kind == 0 and (living := self.model.living(owner)):
            base = Base(self.random.choice(living))
        elif kind == 1 and (conversations := self.model.of_owner(owner)):
            base = Base(None, self.random.choice(conversations))
        try:
            end = (await self.store.history(owner, base, max_bytes=10**9, max_items=10**9)).conversation_end
        except PreviousResponseNotFound:
            assert base.previous_response_id is not None
            assert self.model.context(base.previous_response_id) is None
            return
        id, body = self.name("r"), b"y" * self.random.randrange(100)
        ending = Ending(
            status=self.random.choice(STATUSES), body=b"z" * self.random.randrange(100), output=self.items()
        )
        response = NewResponse(
            id=id,
            owner=owner,
            created_at=10**10,
            model="m",
            body=body,
            base=base,
            conversation_end=end,
            input=self.items(),
        )
        has_begun = self.random.random() < 0.5
        if has_begun:
            await self.store.begin(response)
        await self.store.finish(response, ending, has_begun=has_begun)
        row = ModelResponse(owner, ending.body, base, 0, list(response.input), list(ending.output))
        if base.conversation_id is not None:
            conversation = self.model.conversations[base.conversation_id]
            row.end = len(conversation.items)
            if ending.status in CONTINUED:
                conversation.items += [*row.input, *row.output]
        self.model.responses[id] = row

    async def delete_response(self, owner: str) -> None:
        if living := self.model.living(owner):
            id = self.random.choice(living)
            await self.store.delete_response(owner, id)
            self.model.responses[id].is_deleted = True

    async def create_conversation(self, owner: str) -> None:
        id, items = self.name("c"), self.items()
        await self.store.create_conversation(owner, id, 10**10, b"{}", items)
        self.model.conversations[id] = ModelConversation(owner, items=list(items))

    async def delete_conversation(self, owner: str) -> None:
        if self.random.random() < 0.3 and (conversations := self.model.of_owner(owner)):
            id = self.random.choice(conversations)
            await self.store.delete_conversation(owner, id)
            del self.model.conversations[id]

    async def add_items(self, owner: str) -> None:
        if conversations := self.model.of_owner(owner):
            id, items = self.random.choice(conversations), self.items()
            await self.random.choice((self.store.add_items, self.store.append))(owner, id, items)
            self.model.conversations[id].items += items

    async def delete_item(self, owner: str) -> None:
        for id in self.model.of_owner(owner):
            conversation = self.model.conversations[id]
            places = [n for n, item in enumerate(conversation.items) if item is not None]
            if places and self.random.random() < 0.5:
                place = self.random.choice(places)
                item = conversation.items[place]
                assert item is not None
                await self.store.delete_item(owner, id, item.id)
                conversation.items[place] = None

    async def set_metadata(self, owner: str) -> None:
        if conversations := self.model.of_owner(owner):
            id, metadata = self.random.choice(conversations), b"m" * self.random.randrange(50)
            await self.store.set_metadata(owner, id, metadata)
            self.model.conversations[id].metadata = metadata

    async def act(self) -> None:
        actions: tuple[Callable[[str], Awaitable[None]], ...] = (
            *(self.respond, self.respond, self.respond, self.delete_response, self.delete_response),
            *(self.create_conversation, self.delete_conversation, self.add_items, self.delete_item),
            self.set_metadata,
        )
        await self.random.choice(actions)(self.random.choice(OWNERS))

    # ---- Comparisons

    async def compare(self) -> None:
        for id, response in self.model.responses.items():
            await self.compare_response(id, response)
        for id, conversation in self.model.conversations.items():
            order = self.random.choice(("asc", "desc"))
            expected = [item.id for item in conversation.living()][:: 1 if order == "asc" else -1]
            fetch = partial(self.store.items, conversation.owner, id)
            found = await all_pages(fetch, limit=self.random.randint(1, 5), order=order)
            assert found == expected
            found_conversation = await self.store.conversation(conversation.owner, id)
            assert found_conversation.metadata == conversation.metadata
        sizes = await self.store.sizes()
        assert sizes.responses == sum(len(self.model.living(owner)) for owner in OWNERS)
        assert sizes.conversations == len(self.model.conversations)
        assert sizes.bytes == self.model.n_bytes()
        assert await rows(self.store, "responses") == len(self.model.needed())

    async def compare_response(self, id: str, response: ModelResponse) -> None:
        other = OWNERS[1 - OWNERS.index(response.owner)]
        for owner in (other, *((response.owner,) if response.is_deleted else ())):
            for request in (
                self.store.response(owner, id),
                self.store.input_items(owner, id, PageRequest()),
                self.store.delete_response(owner, id),
            ):
                with pytest.raises(ResponseNotFound):
                    await request
        if response.is_deleted:
            return
        stored = await self.store.response(response.owner, id)
        assert (stored.body, stored.output) == (response.body, response.output)
        assert stored.status in FINAL
        context = self.model.context(id)
        if context is None:
            with pytest.raises(PreviousResponseNotFound):
                await history_ids(self.store, id, owner=response.owner)
            return
        own_input = [item.id for item in response.input]
        expected = [item.id for item in context] + own_input
        output = [item.id for item in response.output]
        assert await history_ids(self.store, id, owner=response.owner) == expected + output
        order = self.random.choice(("asc", "desc"))
        found = await all_pages(
            lambda page: self.store.input_items(response.owner, id, page), limit=self.random.randint(1, 7), order=order
        )
        assert found == expected[:: 1 if order == "asc" else -1]


@pytest.mark.parametrize(
    ("kind", "seed", "n"),
    [
        *(("memory", seed, 40) for seed in range(3)),
        *(("file", seed, 40) for seed in range(4, 7)),
        *(
            pytest.param(kind, seed, 200, marks=pytest.mark.slow)
            for kind in ("memory", "file")
            for seed in range(8, 14)
        ),
        *(pytest.param("postgres", seed, 120, marks=pytest.mark.slow) for seed in range(20, 26)),
    ],
)
async def test_random_transactions(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, seed: int, n: int
) -> None:
    async with store_url(kind, request, tmp_path) as url, opened(url) as store:
        play = Play(store, seed)
        for step in range(n):
            await play.act()
            if step % 20 == 19:
                await play.compare()
        await sweep(store)
        await play.compare()
        for owner in OWNERS:
            while play.model.living(owner):
                await play.delete_response(owner)
        for id, conversation in list(play.model.conversations.items()):
            await store.delete_conversation(conversation.owner, id)
            del play.model.conversations[id]
        await play.compare()
        for table in ("responses", "items", "conversations"):
            assert await rows(store, table) == 0
        assert (await store.sizes()).bytes == 0
