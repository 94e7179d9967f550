"""Parts of a file: ranges, and conditions on entity tags."""

import random

import pytest

from openai_server.api.files.disposition import attachment, parameters
from openai_server.api.files.ranges import Part, UnsatisfiableRange, etag_of, is_unchanged, part_of

ETAG = etag_of("file-1")


def part(value: str, n_bytes: int, **more: bytes) -> Part:
    headers = [(b"range", value.encode()), *((name.replace("_", "-").encode(), text) for name, text in more.items())]
    return part_of(headers, n_bytes, ETAG)


def test_ranges() -> None:
    """Compared with a slow definition (RFC 9110, 14.1.2)."""
    draw = random.Random(23)
    for _ in range(5000):
        n_bytes = draw.choice((0, 1, 2, 10, 100))
        first = draw.choice(("", str(draw.randrange(120))))
        last = draw.choice(("", str(draw.randrange(120))))
        if first:
            wanted = [k for k in range(n_bytes) if int(first) <= k <= int(last or n_bytes)]
            is_valid = not last or int(last) >= int(first)
        else:
            wanted = list(range(n_bytes))[-int(last) :] if last and int(last) else []
            is_valid = bool(last)
        if not is_valid:
            assert part(f"bytes={first}-{last}", n_bytes) == Part(0, n_bytes, is_range=False)
        elif not wanted:
            with pytest.raises(UnsatisfiableRange) as raised:
                part(f"bytes={first}-{last}", n_bytes)
            assert raised.value.headers == {"content-range": f"bytes */{n_bytes}"}
        else:
            assert part(f"bytes={first}-{last}", n_bytes) == Part(wanted[0], wanted[-1] + 1, is_range=True)


@pytest.mark.parametrize(
    "value",
    [
        *("", "bytes", "bytes=", "bytes=-", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4", "bytes=1", "bytes=--1"),
        *("bytes=0x1-2", f"bytes={'9' * 19}-", "bytes=5-2"),
    ],
)
def test_the_whole_file_answers_every_other_request(value: str) -> None:
    assert part(value, 10) == Part(0, 10, is_range=False)


def test_a_range_of_another_state_of_the_file_is_the_whole_file() -> None:
    assert part("bytes=1-2", 10, if_range=ETAG).is_range
    for other in (b'"file-2"', b'W/"file-1"', b"Wed, 21 Oct 2026 07:28:00 GMT"):
        assert not part("bytes=1-2", 10, if_range=other).is_range


@pytest.mark.parametrize(
    ("value", "unchanged"),
    [(ETAG, True), (b"W/" + ETAG, True), (b'"x", ' + ETAG, True), (b"*", True), (b'"x"', False), (b"", False)],
)
def test_a_client_that_has_the_file(value: bytes, unchanged: bool) -> None:
    assert is_unchanged([(b"if-none-match", value)], ETAG) is unchanged


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("a b.txt", 'attachment; filename="a b.txt"'),
        ("", 'attachment; filename="file"'),
        ("../x", 'attachment; filename=".._x"'),
        ('a"b', "attachment; filename=\"a_b\"; filename*=UTF-8''a%22b"),
        ("\u20ac;\r\n", "attachment; filename=\"____\"; filename*=UTF-8''%E2%82%AC%3B__"),
    ],
)
def test_the_name_in_a_header_is_harmless(name: str, value: str) -> None:
    assert attachment(name) == value
    assert value.isascii()


def test_any_name_can_be_a_header() -> None:
    draw = random.Random(23)
    for _ in range(2000):
        name = "".join(chr(draw.choice((draw.randrange(128), draw.randrange(0x2100)))) for _ in range(8))
        value = attachment(name)
        assert value.isascii()
        assert value.isprintable()
        assert set(parameters(value.encode())) == {"filename"}


def test_the_middle_of_a_long_name_is_left_out() -> None:
    value = attachment("\U0001f600" * 1000 + ".html")
    assert len(value) < 4000
    assert value.endswith("%F0%9F%98%80.html")
    assert attachment("n" * 200) == f'attachment; filename="{"n" * 200}"'
