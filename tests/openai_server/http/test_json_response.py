import json

import orjson
from hypothesis import given
from hypothesis import strategies as st

from openai_server.http.json_response import JSONResponse

SMALL = st.floats(min_value=-1e15, max_value=1e15)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | SMALL | st.text(),
    lambda values: st.lists(values) | st.dictionaries(st.text(), values),
)


def test_the_headers_describe_the_body() -> None:
    response = JSONResponse({"ä": 1}, 201, {"Retry-After": "2"})
    assert (response.status_code, json.loads(bytes(response.body))) == (201, {"ä": 1})
    assert response.raw_headers == [
        (b"content-length", str(len(response.body)).encode()),
        (b"content-type", b"application/json"),
        (b"retry-after", b"2"),
    ]


@given(VALUES)
def test_the_json_is_that_of_orjson(value: object) -> None:
    """Byte for byte, except for the exponents of larger floats, which have no plus sign."""
    assert JSONResponse(value).body == orjson.dumps(value)
