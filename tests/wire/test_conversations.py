"""`/v1/conversations` over the real application: every verb, owners, ids, queries, errors, and a server without a
store."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openai.types.conversations import Conversation, ConversationDeletedResource, ConversationItemList

from openai_server.core.store_errors import StoreAway
from openai_server.store.store import Store
from tests.openai_server.api.responses.input.stored_items import ITEMS
from tests.shapes import exact
from tests.wire.fake_worker import FakeWorker
from tests.wire.sidecar import Reply, Sidecar, running
from tests.wire.test_sidecar_stored_responses import prompt_of, respond, storing

PATH = "/v1/conversations"
TEXTS = frozenset({"status"})
"""The key that OpenAI sends too, although its type of a custom tool's call in a conversation lacks it."""


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


async def created(sidecar: Sidecar, *items: Any, **body: Any) -> str:
    reply = await sidecar.send("POST", PATH, {"items": items, **body})
    assert reply.status == 200, reply.body
    exact(Conversation, reply.json, frozenset())
    return str(reply.json["id"])


async def listed(sidecar: Sidecar, id: str, query: str = "order=asc&limit=100") -> Any:
    reply = await sidecar.get(f"{PATH}/{id}/items?{query}")
    assert reply.status == 200, reply.body
    exact(ConversationItemList, reply.json, TEXTS)
    return reply.json


def texts(page: Any) -> list[str]:
    return [item["content"][0]["text"] for item in page["data"]]


# ---- Conversations


async def test_a_conversation_is_created_updated_and_deleted() -> None:
    async with storing() as (sidecar, _):
        reply = await sidecar.send("POST", PATH, {"metadata": {"a": "b"}})
        conversation = exact(Conversation, reply.json, frozenset())
        assert conversation.id.startswith("conv_")
        assert conversation.metadata == {"a": "b"}
        path = f"{PATH}/{conversation.id}"
        assert (await sidecar.get(path)).json == reply.json
        for sent, kept in (({"c": "d"}, {"c": "d"}), ({}, {}), ({"e": "f"}, {"e": "f"}), (None, {})):
            updated = await sidecar.send("POST", path, {"metadata": sent})
            assert updated.json == {**reply.json, "metadata": kept} == (await sidecar.get(path)).json
        deleted = await sidecar.send("DELETE", path)
        assert exact(ConversationDeletedResource, deleted.json, frozenset()).id == conversation.id
        for method in ("GET", "DELETE"):
            gone = await sidecar.send(method, path)
            assert (gone.status, gone.error["code"]) == (404, "conversation_not_found")


async def test_an_empty_conversation_has_an_empty_list() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar)
        assert await listed(sidecar, id) == {
            "object": "list",
            "data": [],
            "first_id": "",
            "last_id": "",
            "has_more": False,
        }


# ---- Items


async def test_items_of_every_type_are_stored_listed_and_sent_back() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar)
        for start in range(0, len(ITEMS), 20):
            reply = await sidecar.send("POST", f"{PATH}/{id}/items", {"items": ITEMS[start : start + 20]})
            assert reply.status == 200, reply.body
            exact(ConversationItemList, reply.json, TEXTS)
            assert reply.json["has_more"] is False
        page = await listed(sidecar, id)
        assert [item["type"] for item in page["data"]] == [item.get("type", "message") for item in ITEMS]
        for item in page["data"]:
            single = await sidecar.get(f"{PATH}/{id}/items/{item['id']}?include=message.output_text.logprobs")
            assert single.status == 200
            hidden = {"content", "encrypted_content"}
            assert {key: value for key, value in single.json.items() if key not in hidden} == {
                key: value for key, value in item.items() if key not in hidden
            }
        copy = await created(sidecar)
        for start in range(0, len(ITEMS), 20):
            reply = await sidecar.send("POST", f"{PATH}/{copy}/items", {"items": page["data"][start : start + 20]})
            assert reply.status == 200, reply.body
        assert (await listed(sidecar, copy))["data"] == page["data"]


async def test_a_response_reads_the_items_and_adds_its_own() -> None:
    async with storing() as (sidecar, worker):
        id = await created(sidecar, user("A", id="first"))
        reply = await respond(sidecar, "B", conversation=id)
        assert reply.status == 200, reply.body
        assert prompt_of(worker) == "[user:A][user:B]"
        page = await listed(sidecar, id)
        assert texts(page) == ["A", "B", "yes"]
        assert page["data"][2] == reply.json["output"][0]
        assert (await sidecar.send("DELETE", f"{PATH}/{id}/items/first")).status == 200
        assert (await respond(sidecar, "C", conversation=id)).status == 200
        assert prompt_of(worker) == "[user:B][assistant:yes][user:C]"


async def test_an_item_is_removed() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar, user("A", id="a"), user("B", id="b"))
        reply = await sidecar.send("DELETE", f"{PATH}/{id}/items/a")
        assert exact(Conversation, reply.json, frozenset()).id == id
        assert texts(await listed(sidecar, id)) == ["B"]
        for method in ("GET", "DELETE"):
            gone = await sidecar.send(method, f"{PATH}/{id}/items/a")
            assert (gone.status, gone.error["code"]) == (404, "item_not_found")


async def test_a_reference_adds_a_stored_item() -> None:
    async with storing() as (sidecar, _):
        first = await created(sidecar, user("A", id="a"))
        second = await created(sidecar, user("B"), {"type": "item_reference", "id": "a"}, user("C"))
        page = await listed(sidecar, second)
        assert texts(page) == ["B", "A", "C"]
        assert page["data"][1] == (await listed(sidecar, first))["data"][0]
        added = await sidecar.send("POST", f"{PATH}/{second}/items", {"items": [{"id": "a"}]})
        assert (added.status, added.error["code"]) == (400, "item_exists")
        missing = await sidecar.send("POST", f"{PATH}/{second}/items", {"items": [user("D"), {"id": "x"}]})
        assert (missing.status, missing.error["param"]) == (404, "items[1]")
        twice = await sidecar.send("POST", PATH, {"items": [{"id": "a"}, {"id": "a"}]})
        assert (twice.status, twice.error["param"]) == (400, "items[1]")
        assert texts(await listed(sidecar, second)) == ["B", "A", "C"]


async def test_an_id_that_the_conversation_has_is_refused() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar, user("A", id="a"))
        reply = await sidecar.send("POST", f"{PATH}/{id}/items", {"items": [user("B"), user("C", id="a")]})
        assert (reply.status, reply.error["code"], reply.error["param"]) == (400, "item_exists", "items")
        assert texts(await listed(sidecar, id)) == ["A"]
        assert await created(sidecar, user("A", id="a")) != id


@pytest.mark.parametrize("id", ["a?b=c#d&e", "a%2Fb", "...", "~!$&'()*+,;=:@", '{}|\\^`<>"', "a" * 128])
async def test_ids_with_odd_characters(id: str) -> None:
    async with storing() as (sidecar, _):
        conversation = await created(sidecar, user("A", id=id), user("B"))
        assert (await listed(sidecar, conversation))["first_id"] == id
        page = await listed(sidecar, conversation, f"order=asc&limit=1&after={quote(id, safe='')}")
        assert texts(page) == ["B"]
        if "?" in id:  # the application gets a path that is decoded; the test's client splits it there
            return
        path = f"{PATH}/{conversation}/items/{id}"
        assert (await sidecar.get(path)).json["id"] == id
        assert (await sidecar.send("DELETE", path)).status == 200


# ---- Owners


async def test_a_conversation_belongs_to_the_name_of_its_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("alice: key-a\nalice: key-b\nbob: key-c\n")

    def bearer(name: str) -> Mapping[str, str]:
        return {"authorization": f"Bearer key-{name}"}

    async with storing(api_key_file=keys) as (sidecar, _):
        body = {"items": [user("A", id="a")]}
        id = (await sidecar.send("POST", PATH, body, bearer("a"))).json["id"]
        requests: list[tuple[str, str, Any]] = [
            ("GET", f"/{id}", None),
            ("POST", f"/{id}", {"metadata": {"a": "b"}}),
            ("GET", f"/{id}/items", None),
            ("POST", f"/{id}/items", {"items": [user("B")]}),
            ("GET", f"/{id}/items/a", None),
            ("DELETE", f"/{id}/items/a", None),
            ("DELETE", f"/{id}", None),
        ]
        for method, path, sent in requests:
            assert (await sidecar.send(method, PATH + path, sent)).status == 401
            refused = await sidecar.send(method, PATH + path, sent, bearer("c"))
            assert (refused.status, refused.error["code"]) == (404, "conversation_not_found")
        reference = {"items": [{"type": "item_reference", "id": "a"}]}
        assert (await sidecar.send("POST", PATH, reference, bearer("c"))).status == 404
        assert (await sidecar.send("POST", PATH, reference, bearer("b"))).status == 200
        for method, path, sent in requests:
            assert (await sidecar.send(method, PATH + path, sent, bearer("b"))).status == 200


async def test_a_fairness_id_is_no_owner() -> None:
    async with storing() as (sidecar, _):
        headers = {"x-gateway-inference-fairness-id": "team"}
        id = (await sidecar.send("POST", PATH, {}, headers)).json["id"]
        assert (await sidecar.get(f"{PATH}/{id}")).status == 200


# ---- Methods and errors

PATHS = [
    ("GET", "/v1/responses/resp_1"),
    ("HEAD", "/v1/responses/resp_1"),
    ("DELETE", "/v1/responses/resp_1"),
    ("GET", "/v1/responses/resp_1/input_items"),
    ("POST", PATH),
    ("GET", f"{PATH}/conv_1"),
    ("HEAD", f"{PATH}/conv_1"),
    ("POST", f"{PATH}/conv_1"),
    ("DELETE", f"{PATH}/conv_1"),
    ("GET", f"{PATH}/conv_1/items"),
    ("HEAD", f"{PATH}/conv_1/items"),
    ("POST", f"{PATH}/conv_1/items"),
    ("GET", f"{PATH}/conv_1/items/msg_1"),
    ("HEAD", f"{PATH}/conv_1/items/msg_1"),
    ("DELETE", f"{PATH}/conv_1/items/msg_1"),
]


@pytest.mark.parametrize(("method", "path"), PATHS)
@pytest.mark.parametrize("prefix", ["", "/openai"])
async def test_without_a_store_the_message_names_the_option(method: str, path: str, prefix: str) -> None:
    async with running(FakeWorker()) as sidecar:
        reply = await sidecar.send(method, prefix + path, {})
        assert reply.status == 404
        assert (reply.error["code"], "--store" in reply.error["message"]) == ("store_disabled", True)
        assert (await sidecar.send(method, path.removeprefix("/v1"), {})).status == 404


BODIES: Mapping[str, Any] = {PATH: {}, f"{PATH}/conv_1": {"metadata": {}}, f"{PATH}/conv_1/items": {"items": []}}


@pytest.mark.parametrize(("method", "path"), PATHS)
async def test_a_store_that_does_not_answer_is_an_error(
    method: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> None:
        raise StoreAway

    async with storing() as (sidecar, _):
        for name in dir(Store):
            if not name.startswith("_") and name not in ("is_away", "open", "close", "watch"):
                monkeypatch.setattr(Store, name, fail)
        reply = await sidecar.send(method, path, BODIES[path] if method == "POST" else None)
        assert (reply.status, reply.error["code"]) == (503, "store_unavailable")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", PATH, "POST"),
        ("DELETE", PATH, "POST"),
        ("PUT", f"{PATH}/conv_1", "DELETE, GET, HEAD, POST"),
        ("DELETE", f"{PATH}/conv_1/items", "GET, HEAD, POST"),
        ("POST", f"{PATH}/conv_1/items/msg_1", "DELETE, GET, HEAD"),
        ("PUT", "/v1/responses/resp_1", "DELETE, GET, HEAD"),
        ("POST", "/v1/responses/resp_1/input_items", "GET, HEAD"),
        ("GET", "/v1/responses/compact", "POST"),
        ("DELETE", "/v1/responses/input_tokens", "POST"),
    ],
)
async def test_other_methods_are_refused(method: str, path: str, allowed: str) -> None:
    async with storing() as (sidecar, _):
        reply = await sidecar.send(method, path)
        assert (reply.status, reply.headers["allow"]) == (405, allowed)


@pytest.mark.parametrize("path", ["/", "/conv_1/", "/conv_1/items/", "/conv_1/items/a/b", "//items", "/conv_1/x"])
async def test_other_paths_are_not_served(path: str) -> None:
    async with storing() as (sidecar, _):
        reply = await sidecar.get(PATH + path)
        assert (reply.status, reply.error["code"]) == (404, None)


async def test_requests_are_counted_against_the_limit() -> None:
    async with storing(requests_per_minute=3) as (sidecar, _):
        id = await created(sidecar)
        statuses = [(await sidecar.get(f"{PATH}/{id}")).status for _ in range(3)]
        assert statuses == [200, 200, 429]


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null"])
async def test_a_body_that_is_no_object(body: bytes) -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar)
        for path in (PATH, f"{PATH}/{id}", f"{PATH}/{id}/items"):
            reply = await sidecar.send("POST", path, body)
            assert (reply.status, reply.error["code"]) == (400, "invalid_json")


async def test_many_callers_add_items_at_once() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar)

        async def add(name: str) -> Reply:
            items = [user(f"{name}{i}") for i in range(3)]
            return await sidecar.send("POST", f"{PATH}/{id}/items", {"items": items})

        replies = await asyncio.gather(*(add(name) for name in "abcdefgh"))
        assert [reply.status for reply in replies] == [200] * 8
        found = texts(await listed(sidecar, id))
        assert sorted(found) == sorted(f"{name}{i}" for name in "abcdefgh" for i in range(3))
        for name in "abcdefgh":
            place = found.index(f"{name}0")
            assert found[place : place + 3] == [f"{name}{i}" for i in range(3)]


async def test_a_large_item_comes_back_whole() -> None:
    text = "ä" * 300_000
    async with storing() as (sidecar, _):
        id = await created(sidecar, user(text, id="large"))
        item = (await sidecar.get(f"{PATH}/{id}/items/large")).json
        assert item["content"][0]["text"] == text
