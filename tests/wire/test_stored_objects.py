"""Stored responses and conversations with the `openai` package and a sidecar program with two processes."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, BadRequestError, NotFoundError, OpenAI
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList
from openai.types.responses import Response
from openai.types.responses.response_item_list import ResponseItemList

from tests.openai_server.api.responses.output.streams import EXTENSIONS
from tests.shapes import exact
from tests.wire import raw_http
from tests.wire.fake_worker import serving
from tests.wire.test_sidecar_process import TIMEOUT, sidecar
from tests.wire.test_sidecar_stored_responses import worker_that_says

pytestmark = pytest.mark.slow

STATUS = frozenset({"status"})
Call = Callable[..., Awaitable[Any]]


class Client:
    """Calls the methods of a client by their paths, such as `conversations.items.list`."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def at(self, path: str) -> Any:
        found = self._client
        for name in path.split("."):
            found = getattr(found, name)
        return found

    async def call(self, path: str, *args: Any, **fields: Any) -> Any:
        return await self.at(path)(*args, **fields)

    async def streamed(self, path: str, *args: Any, **fields: Any) -> bytes:
        """Returns the content of a response that is read in pieces."""
        async with self.at(path)(*args, **fields) as response:
            return b"".join([piece async for piece in response.iter_bytes(100)])

    async def all(self, path: str, *args: Any, **fields: Any) -> list[Any]:
        """Returns the entries of all pages."""
        return [entry async for entry in self.at(path)(*args, **fields)]


class SyncClient(Client):
    async def call(self, path: str, *args: Any, **fields: Any) -> Any:
        return await asyncio.to_thread(self.at(path), *args, **fields)

    async def streamed(self, path: str, *args: Any, **fields: Any) -> bytes:
        def read() -> bytes:
            with self.at(path)(*args, **fields) as response:
                return b"".join(response.iter_bytes(100))

        return await asyncio.to_thread(read)

    async def all(self, path: str, *args: Any, **fields: Any) -> list[Any]:
        return await asyncio.to_thread(lambda: list(self.at(path)(*args, **fields)))


@asynccontextmanager
async def clients(folder: Path, kind: type[Client] = Client) -> AsyncIterator[tuple[Client, int]]:
    """Yields a client, and the port of its sidecar."""
    async with serving(worker_that_says("yes", "no")) as worker_port:
        arguments = ("--store", f"sqlite:///{folder / 'store.db'}")
        async with sidecar(worker_port, *arguments, workers=2) as running:
            settings: dict[str, Any] = {
                "base_url": f"http://127.0.0.1:{running.port}/v1",
                "api_key": "none",
                "max_retries": 0,
                "timeout": TIMEOUT,
            }
            if kind is SyncClient:
                with OpenAI(**settings) as client:
                    yield SyncClient(client), running.port
            else:
                async with AsyncOpenAI(**settings) as client:
                    yield Client(client), running.port


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def text(item: Any) -> str:
    return str(item.content[0].text)


@pytest.mark.parametrize("kind", [Client, SyncClient])
async def test_every_method_of_conversations(kind: type[Client], tmp_path: Path) -> None:
    async with clients(tmp_path, kind) as (client, _):
        empty = await client.call("conversations.create")
        exact(Conversation, empty, frozenset())
        created = await client.call("conversations.create", items=[user("A", id="a")], metadata={"x": "y"})
        assert exact(Conversation, created, frozenset()).metadata == {"x": "y"}
        assert await client.call("conversations.retrieve", created.id) == created
        updated = await client.call("conversations.update", created.id, metadata={"z": "w"})
        assert exact(Conversation, updated, frozenset()).metadata == {"z": "w"}
        assert (await client.call("conversations.update", created.id, metadata=None)).metadata == {}
        added = await client.call(
            "conversations.items.create",
            created.id,
            items=[user("B", id="b"), {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}],
            include=["message.output_text.logprobs"],
        )
        exact(ConversationItemList, added, STATUS)
        assert [item.type for item in added.data] == ["message", "function_call"]
        item = await client.call("conversations.items.retrieve", "b", conversation_id=created.id, include=[])
        assert (item.id, text(item)) == ("b", "B")
        page = await client.call("conversations.items.list", created.id) if kind is Client else None
        assert page is None or page.has_more is False
        items = await client.all("conversations.items.list", created.id, order="asc", limit=1)
        assert [item.id for item in items] == ["a", "b", added.data[1].id]
        after = await client.call("conversations.items.delete", "b", conversation_id=created.id)
        assert exact(Conversation, after, frozenset()).id == created.id
        deleted = await client.call("conversations.delete", created.id)
        assert exact(ConversationDeletedResource, deleted, frozenset()).deleted is True
        with pytest.raises(NotFoundError) as missing:
            await client.call("conversations.retrieve", created.id)
        assert missing.value.code == "conversation_not_found"


@pytest.mark.parametrize("kind", [Client, SyncClient])
async def test_every_method_of_stored_responses(kind: type[Client], tmp_path: Path) -> None:
    async with clients(tmp_path, kind) as (client, _):
        first = await client.call("responses.create", model="tiny", input="A", metadata={"x": "y"})
        second = await client.call(
            "responses.create", model="tiny", input=[user("B", id="b")], previous_response_id=first.id
        )
        for response in (first, second):
            again = await client.call("responses.retrieve", response.id, include=["message.output_text.logprobs"])
            assert again.to_dict() == response.to_dict()
            exact(Response, again, EXTENSIONS)
        items = await client.all("responses.input_items.list", second.id, order="asc", limit=1)
        assert [text(item) for item in items] == ["A", "yes", "B"]
        assert items[1].to_dict() == first.output[0].to_dict()
        newest = await client.all("responses.input_items.list", second.id, limit=2, include=[])
        assert newest == items[::-1]
        page = await client.call("responses.input_items.with_raw_response.list", second.id, after="b")
        listed = exact(ResponseItemList, page.http_response.json(), frozenset())
        assert [text(item) for item in listed.data] == ["yes", "A"]
        assert await client.call("responses.delete", first.id) is None
        raw = await client.call("responses.with_raw_response.delete", second.id)
        assert raw.http_response.json() == {"id": second.id, "object": "response", "deleted": True}
        for response in (first, second):
            for method in ("responses.retrieve", "responses.delete"):
                with pytest.raises(NotFoundError) as missing:
                    await client.call(method, response.id)
                assert missing.value.code == "response_not_found"
        with pytest.raises(NotFoundError):
            await client.all("responses.input_items.list", second.id)


async def test_a_response_that_is_not_stored_does_not_exist(tmp_path: Path) -> None:
    async with clients(tmp_path) as (client, _):
        response = await client.call("responses.create", model="tiny", input="A", store=False)
        with pytest.raises(NotFoundError):
            await client.call("responses.retrieve", response.id)


@pytest.mark.parametrize("kind", [Client, SyncClient])
@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_all_pages_are_read_while_items_come_and_go(kind: type[Client], order: str, tmp_path: Path) -> None:
    async with clients(tmp_path, kind) as (client, _):
        items = [user(str(i), id=f"i{i}") for i in range(20)]
        conversation = await client.call("conversations.create", items=items)
        removed = [f"i{i}" for i in range(0, 20, 3)]

        async def change() -> None:
            for i, id in enumerate(removed):
                await client.call("conversations.items.delete", id, conversation_id=conversation.id)
                await client.call("conversations.items.create", conversation.id, items=[user(f"new {i}")])

        found, _ = await asyncio.gather(
            client.all("conversations.items.list", conversation.id, order=order, limit=2), change()
        )
        ids = [item.id for item in found]
        assert len(set(ids)) == len(ids)
        stayed = [f"i{i}" for i in range(20) if f"i{i}" not in removed]
        assert [id for id in ids if id in stayed] == (stayed if order == "asc" else stayed[::-1])


async def test_ids_with_odd_characters(tmp_path: Path) -> None:
    ids = ["a?b=c#d&e", "a%2Fb%", "...", "~!$&'()*+,;=:@", '{}|\\^`<>"', "a" * 128]
    async with clients(tmp_path) as (client, _):
        conversation = await client.call("conversations.create", items=[*(user(id, id=id) for id in ids), user("last")])
        for i, id in enumerate(ids):
            item = await client.call("conversations.items.retrieve", id, conversation_id=conversation.id)
            assert (item.id, text(item)) == (id, id)
            later = await client.all("conversations.items.list", conversation.id, order="asc", after=id)
            assert [text(item) for item in later] == [*ids[i + 1 :], "last"]
        for id in ids:
            await client.call("conversations.items.delete", id, conversation_id=conversation.id)
            with pytest.raises(NotFoundError):
                await client.call("conversations.items.retrieve", id, conversation_id=conversation.id)


async def test_a_head_request_has_no_body(tmp_path: Path) -> None:
    async with clients(tmp_path) as (client, port):
        response = await client.call("responses.create", model="tiny", input="A")
        conversation = await client.call("conversations.create", items=[user("A", id="a")])
        for path in (
            *(f"/v1/responses/{response.id}{rest}" for rest in ("", "/input_items")),
            *(f"/v1/conversations/{conversation.id}{rest}" for rest in ("", "/items", "/items/a")),
        ):
            got, head = await asyncio.to_thread(answers, port, path)
            assert (got.status, head.status) == (200, 200)
            assert int(head.headers["content-length"]) == len(got.body) > 0


def answers(port: int, path: str) -> tuple[raw_http.Response, raw_http.Response]:
    """Returns the responses to GET and HEAD. On one connection, a body after a HEAD would be taken for the next
    response."""
    with raw_http.connected(port) as connection:
        replies = {}
        for method in ("HEAD", "GET"):
            connection.send(f"{method} {path} HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            replies[method] = connection.response(method)
    return replies["GET"], replies["HEAD"]


async def test_a_stored_item_is_input_of_the_next_request(tmp_path: Path) -> None:
    async with clients(tmp_path) as (client, _):
        conversation = await client.call("conversations.create", items=[user("A"), user("B")])
        items = await client.all("conversations.items.list", conversation.id, order="asc")
        sent = [item.to_dict() for item in items]
        copy = await client.call("conversations.create", items=sent)
        assert [item.to_dict() for item in await client.all("conversations.items.list", copy.id, order="asc")] == sent
        response = await client.call("responses.create", model="tiny", input=sent)
        listed = await client.all("responses.input_items.list", response.id, order="asc")
        assert [item.to_dict() for item in listed] == sent
        with pytest.raises(BadRequestError) as twice:
            await client.call("conversations.items.create", copy.id, items=sent)
        assert twice.value.code == "item_exists"
