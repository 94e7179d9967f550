"""Stored items have some of their parts only on request."""

import json
from typing import Any

import pytest

from openai_server.api.responses.stored_view import ENCRYPTED, LOGPROBS, shown
from tests.openai_server.api.responses.bodies import Json, assistant, user

MESSAGE = assistant("a") | {
    "content": [
        {"type": "output_text", "text": "a", "annotations": [], "logprobs": [{"token": "a"}]},
        {"type": "refusal", "refusal": "no"},
    ]
}
PLAIN: Json = {"type": "reasoning", "id": "rs_1", "content": [{"type": "reasoning_text", "text": "t"}], "summary": []}
SEALED: Json = {**PLAIN, "encrypted_content": "sealed"}


def view(item: Json, *include: str, seal: Any = None) -> Any:
    return json.loads(bytes(shown(json.dumps(item).encode(), frozenset(include), seal)))


def test_log_probabilities_only_if_included() -> None:
    assert view(MESSAGE, LOGPROBS) == MESSAGE
    text, refusal = MESSAGE["content"]
    assert view(MESSAGE, ENCRYPTED) == {**MESSAGE, "content": [{**text, "logprobs": []}, refusal]}


def test_sealed_reasoning_only_if_included() -> None:
    assert view(SEALED, ENCRYPTED, seal=str.upper) == SEALED
    assert view(SEALED, LOGPROBS) == PLAIN


def test_plain_reasoning_is_sealed_if_included() -> None:
    assert view(PLAIN, ENCRYPTED, seal=str.upper) == {**PLAIN, "encrypted_content": "T"}
    assert view(PLAIN, ENCRYPTED) == PLAIN
    assert view(PLAIN, LOGPROBS, seal=str.upper) == PLAIN
    empty = {**PLAIN, "content": []}
    assert view(empty, ENCRYPTED, seal=str.upper) == empty


@pytest.mark.parametrize("item", [user(), assistant("a"), PLAIN, {"type": "compaction", "encrypted_content": "c"}])
def test_other_items_are_the_stored_bytes(item: Json) -> None:
    if "role" in item:
        item = {"type": "message", **item}
    body = json.dumps(item | {"content": item.get("content") if isinstance(item.get("content"), list) else []}).encode()
    assert bytes(shown(body, frozenset(), None)) == body
