"""Lists of stored items: pages, queries, and parts of items on request."""

import pytest

from tests.wire.test_conversations import PATH, created, listed, texts, user
from tests.wire.test_sidecar_stored_responses import respond, storing


async def test_pages_have_a_limit_an_order_and_a_beginning() -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar, *(user(str(i), id=f"i{i}") for i in range(20)))
        await sidecar.send("POST", f"{PATH}/{id}/items", {"items": [user(str(i), id=f"i{i}") for i in range(20, 25)]})
        numbers = [str(i) for i in range(25)]
        page = await listed(sidecar, id, "")
        assert (texts(page), page["has_more"]) == (numbers[:4:-1], True)
        assert (page["first_id"], page["last_id"]) == ("i24", "i5")
        page = await listed(sidecar, id, "after=i5")
        assert (texts(page), page["has_more"]) == (numbers[4::-1], False)
        page = await listed(sidecar, id, "order=asc&limit=2&after=i22")
        assert (texts(page), page["has_more"]) == (["23", "24"], False)
        page = await listed(sidecar, id, "order=asc&limit=1&after=i22")
        assert (texts(page), page["has_more"]) == (["23"], True)
        assert texts(await listed(sidecar, id, "order=asc&after=i24")) == []
        unknown = await sidecar.get(f"{PATH}/{id}/items?after=x")
        assert (unknown.status, unknown.error["param"]) == (404, "after")


@pytest.mark.parametrize("order", ["asc", "desc"])
async def test_pages_stay_whole_while_items_come_and_go(order: str) -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar, *(user(str(i), id=f"i{i}") for i in range(10)))
        seen: list[str] = []
        after = ""
        for step in range(100):
            page = await listed(sidecar, id, f"order={order}&limit=2{after}")
            seen += texts(page)
            if not page["has_more"]:
                break
            after = f"&after={page['last_id']}"
            removed = await sidecar.send("DELETE", f"{PATH}/{id}/items/{page['last_id']}")
            assert removed.status == 200
            if step < 3:
                await sidecar.send("POST", f"{PATH}/{id}/items", {"items": [user(f"new {step}")]})
        old = [text for text in seen if not text.startswith("new")]
        assert old == [str(i) for i in (range(10) if order == "asc" else reversed(range(10)))]
        new = [text for text in seen if text.startswith("new")]
        assert new == ([f"new {i}" for i in range(3)] if order == "asc" else [])


@pytest.mark.parametrize(
    ("query", "param"),
    [
        *((f"limit={value}", "limit") for value in ("0", "101", "-1", "x", "1.5", "9" * 5000)),
        ("order=up", "order"),
        ("include=x", "include"),
        ("include[]=message.output_text.logprobs&include[]=x", "include"),
    ],
)
@pytest.mark.parametrize("kind", ["conversations", "responses"])
async def test_a_bad_query_is_an_error_that_names_the_field(query: str, param: str, kind: str) -> None:
    async with storing() as (sidecar, _):
        path = f"{PATH}/{await created(sidecar)}/items"
        if kind == "responses":
            path = f"/v1/responses/{(await respond(sidecar)).json['id']}/input_items"
        reply = await sidecar.get(f"{path}?{query}")
        assert (reply.status, reply.error["param"]) == (400, param)
        assert len(reply.body) < 1000
        assert (await sidecar.get(f"{path}?api-version=2025-04-01-preview&limit=1&limit")).status == 200


LOGPROBS = [{"token": "a", "bytes": [97], "logprob": -0.5, "top_logprobs": []}]
SAID = {
    "role": "assistant",
    "id": "said",
    "content": [{"type": "output_text", "text": "a", "annotations": [], "logprobs": LOGPROBS}],
}
THOUGHT = {"type": "reasoning", "id": "thought", "summary": [], "encrypted_content": "sealed"}


@pytest.mark.parametrize(
    ("query", "logprobs", "sealed"),
    [
        ("", [], None),
        ("include=message.output_text.logprobs", LOGPROBS, None),
        ("include[]=reasoning.encrypted_content&include[]=message.output_text.logprobs", LOGPROBS, "sealed"),
        ("include=reasoning.encrypted_content&include=web_search_call.results", [], "sealed"),
    ],
)
async def test_parts_of_items_on_request(query: str, logprobs: object, sealed: str | None) -> None:
    async with storing() as (sidecar, _):
        id = await created(sidecar, SAID, THOUGHT)
        page = await listed(sidecar, id, f"order=asc&{query}")
        assert page["data"][0]["content"][0]["logprobs"] == logprobs
        assert page["data"][1].get("encrypted_content") == sealed
        for item in page["data"]:
            assert (await sidecar.get(f"{PATH}/{id}/items/{item['id']}?{query}")).json == item
        other = await created(sidecar)
        added = await sidecar.send("POST", f"{PATH}/{other}/items?{query}", {"items": [SAID, THOUGHT]})
        assert added.json["data"] == page["data"]
