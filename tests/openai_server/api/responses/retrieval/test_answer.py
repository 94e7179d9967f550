"""The objects about stored responses."""

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseItemList

from openai_server.api.responses.retrieval.answer import item_list, response_object
from openai_server.api.responses.stored_view import LOGPROBS
from openai_server.http.json_response import encode
from openai_server.store.records import Item, Page, StoredResponse
from tests.shapes import exact

TEXT = {"type": "output_text", "text": "a", "annotations": [], "logprobs": []}
MESSAGE: dict[str, Any] = {"type": "message", "status": "completed", "role": "assistant", "content": [TEXT]}
BODY = (
    b'{"id":"resp_1","object":"response","created_at":1,"status":"queued","temperature":1.0,"output":[],"model":"m",'
    b'"parallel_tool_calls":true,"tool_choice":"auto","tools":[]}'
)


def message(id: str, **token: Any) -> Item:
    logprobs = [{"bytes": [97], "logprob": -0.5, "top_logprobs": [], **token}] if token else []
    content = [{**TEXT, "logprobs": logprobs}]
    return Item(id, json.dumps({**MESSAGE, "id": id, "content": content}).encode())


@pytest.mark.parametrize(("ids", "ends"), [((), ("", "")), (("a",), ("a", "a")), (("a", "b", "c"), ("a", "c"))])
@pytest.mark.parametrize("has_more", [False, True])
def test_a_list_has_the_ids_of_its_ends(ids: tuple[str, ...], ends: tuple[str, str], has_more: bool) -> None:
    answer = json.loads(encode(item_list(Page([message(id) for id in ids], has_more), frozenset(), None)))
    exact(ResponseItemList, answer, frozenset())
    assert [item["id"] for item in answer["data"]] == list(ids)
    assert (answer["first_id"], answer["last_id"], answer["has_more"]) == (*ends, has_more)


@pytest.mark.parametrize("include", [frozenset[str](), frozenset({LOGPROBS})])
def test_items_have_parts_on_request_only(include: frozenset[str]) -> None:
    [item] = json.loads(encode(item_list(Page([message("a", token="a")], False), include, None)))["data"]
    assert bool(item["content"][0]["logprobs"]) == bool(include)


def test_a_response_has_the_stored_keys_with_its_status_and_output() -> None:
    stored = StoredResponse(
        id="resp_1",
        owner="",
        created_at=1,
        model="m",
        status="incomplete",
        body=BODY,
        output=[message("msg_1"), message("msg_2", token="a")],
    )
    text = encode(response_object(stored, frozenset(), None))
    answer = json.loads(text)
    exact(Response, answer, frozenset())
    assert list(answer) == list(json.loads(BODY))
    assert b'"temperature":1.0,' in text
    assert answer["status"] == "incomplete"
    assert [item["id"] for item in answer["output"]] == ["msg_1", "msg_2"]
    assert answer["output"][1]["content"][0]["logprobs"] == []
