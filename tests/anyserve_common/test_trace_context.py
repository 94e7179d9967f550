import pytest

from anyserve_common import trace_context

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00",
        PARENT[:-1],
        PARENT + "0",
        PARENT.upper(),
        PARENT.replace("00-", "ff-", 1),
        "00-" + "0" * 32 + "-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-" + "0" * 16 + "-01",
        PARENT + "\n",
    ],
)
def test_an_invalid_traceparent_is_left_out(header: str) -> None:
    assert trace_context.parent(header) == ""
    assert trace_context.parent(PARENT) == PARENT


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("vendor=1", "vendor=1"),
        ("a=1,tenant@b=x y!", "a=1,tenant@b=x y!"),
        (" a=1\t, ,b=2,", "a=1,b=2"),  # proxies join several headers into this
        ("0a_-*/=~", "0a_-*/=~"),
        ("a=" + "x" * 256, "a=" + "x" * 256),
        (",".join(f"k{i}=1" for i in range(32)), ",".join(f"k{i}=1" for i in range(32))),
    ],
)
def test_a_valid_tracestate_is_passed_on(header: str, expected: str) -> None:
    assert trace_context.state(header) == expected


@pytest.mark.parametrize(
    "header",
    [
        "",
        ",",
        "a",
        "a=",
        "=1",
        "A=1",
        "a=1=2",
        "a=1;b=ä",
        "a=1\n",
        "a=\x7f",
        "a =1",
        "a=1,b",
        "a=" + "x" * 257,
        "k" * 257 + "=1",
        ",".join(f"k{i}=1" for i in range(33)),
        "a=" + "x" * 250 + ",b=" + "x" * 250 + ",c=123456",
    ],
)
def test_an_invalid_tracestate_is_left_out(header: str) -> None:
    assert trace_context.state(header) == ""
