"""The queries of requests for stored objects."""

from collections.abc import Callable
from typing import Any

import pytest

from openai_server.api.responses.retrieval.query import include_of, page_of, starting_after, wants_stream
from openai_server.core.errors import InvalidRequest
from openai_server.store.records import PageRequest

LOGPROBS, ENCRYPTED = "message.output_text.logprobs", "reasoning.encrypted_content"


@pytest.mark.parametrize(
    ("query", "include"),
    [
        ({}, set()),
        ({"include": LOGPROBS}, {LOGPROBS}),
        ({"include": f"{LOGPROBS},{ENCRYPTED},{LOGPROBS}"}, {LOGPROBS, ENCRYPTED}),
        ({"include[]": LOGPROBS}, {LOGPROBS}),
        ({"include": ENCRYPTED, "include[]": LOGPROBS}, {LOGPROBS, ENCRYPTED}),
    ],
)
def test_include(query: dict[str, str], include: set[str]) -> None:
    assert include_of(query) == include


@pytest.mark.parametrize(
    ("query", "page"),
    [
        ({}, PageRequest(limit=20, order="desc")),
        ({"limit": "1", "order": "asc", "after": "x"}, PageRequest(limit=1, order="asc", after="x")),
        ({"limit": "100", "order": "desc"}, PageRequest(limit=100, order="desc")),
        ({"limit": "007"}, PageRequest(limit=7)),
    ],
)
def test_page(query: dict[str, str], page: PageRequest) -> None:
    assert page_of(query) == page


@pytest.mark.parametrize(
    ("query", "stream", "after"),
    [
        ({}, False, None),
        ({"stream": "false"}, False, None),
        ({"stream": "true"}, True, None),
        ({"stream": "True", "starting_after": "0", "include_obfuscation": "false"}, True, 0),
        ({"stream": "1", "starting_after": "2147483647"}, True, 2147483647),
    ],
)
def test_stream(query: dict[str, str], stream: bool, after: int | None) -> None:
    assert wants_stream(query) is stream
    assert starting_after(query) == after


@pytest.mark.parametrize(
    ("read", "query", "param"),
    [
        (include_of, {"include": "x"}, "include"),
        (include_of, {"include": f"{LOGPROBS},"}, "include"),
        (include_of, {"include[]": "x"}, "include"),
        *((page_of, {"limit": value}, "limit") for value in ("0", "101", "-1", "1.0", "x", "²", "9" * 5000, "1e2")),
        (page_of, {"order": "ASC"}, "order"),
        (wants_stream, {"stream": "yes"}, "stream"),
        (wants_stream, {"include_obfuscation": "true"}, "include_obfuscation"),
        (wants_stream, {"starting_after": "1"}, "starting_after"),
        (wants_stream, {"stream": "false", "starting_after": "1"}, "starting_after"),
        (starting_after, {"starting_after": "-1"}, "starting_after"),
        (starting_after, {"starting_after": "2147483648"}, "starting_after"),
    ],
)
def test_an_error_names_the_field(read: Callable[[Any], object], query: dict[str, str], param: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        read(query)
    assert raised.value.param == param
    assert f"'{param}'" in raised.value.message
    assert len(raised.value.message) < 500
