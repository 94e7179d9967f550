import pytest

from openai_server.api.query import MAX_FIELDS, query_of
from openai_server.core.errors import InvalidRequest
from tests.openai_server.api.fakes import request_context


@pytest.mark.parametrize(
    ("text", "query"),
    [
        (b"", {}),
        (b"a=1&b=%C3%A9+x", {"a": "1", "b": "é x"}),
        (b"a=1&a=2&a=3", {"a": "1,2,3"}),
        (b"a&b=&c=1&&", {"c": "1"}),
        (b"x[]=1&x%5B%5D=2", {"x[]": "1,2"}),
        (b"a=%FF%&\xff=1", {"a": "\ufffd%", "\xff": "1"}),
    ],
)
def test_a_query_is_decoded(text: bytes, query: dict[str, str]) -> None:
    assert query_of(request_context(scope={"query_string": text})) == query


def test_a_query_has_few_fields() -> None:
    assert query_of(request_context(scope={})) == {}
    query_of(request_context(scope={"query_string": b"a=1&" * (MAX_FIELDS - 1)}))
    with pytest.raises(InvalidRequest):
        query_of(request_context(scope={"query_string": b"a=1&" * (MAX_FIELDS + 1)}))
