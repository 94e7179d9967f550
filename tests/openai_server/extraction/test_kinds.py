import codecs
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.extraction.errors import Unreadable
from openai_server.extraction.extract import extracted
from openai_server.extraction.kinds import Kind, cleaned, decoded, kind_of

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
ZIP = b"PK\3\4\x14\0\0\0\x08\0\0\0!\0\xff\xfe"


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (b"%PDF-1.4\n", "a.pdf", Kind.PDF),
        (b"%PDF-1.4\n", "a.txt", Kind.PDF),
        (b"\xef\xbb\xbf\n %PDF-1.4\n", "", Kind.PDF),
        (b"garbage before\n%PDF-1.4\n", "A.PDF", Kind.PDF),
        (b"PREFIX = '%PDF-1.4'", "kinds.py", Kind.TEXT),
        (b"<!DOCTYPE html><p>a", "", Kind.HTML),
        (b"\n<!-- a --><HTML lang=en>", "page.php", Kind.HTML),
        (b"<p>a</p>", "a.html", Kind.HTML),
        (b"<p>a</p>", "a.HTM", Kind.HTML),
        (b"<p>a</p>", "", Kind.TEXT),
        (b"<html><body>", "page.jinja", Kind.TEXT),
        (b"<html>", "README.md", Kind.TEXT),
        (b"<htmlish>", "", Kind.TEXT),
        (b'{"a": 1}', "a.json", Kind.TEXT),
        (b"BMW and GIF87a", "", Kind.TEXT),
        (b"PK\3\4"[:2] + b" is a text", "", Kind.TEXT),
        (b"", "", Kind.TEXT),
    ],
)
def test_the_content_decides_before_the_name(data: bytes, name: str, kind: Kind) -> None:
    assert kind_of(data, name) is kind


@pytest.mark.parametrize("start", [b"", b"<?xml version='1.0'?>\n"])
def test_many_comments_take_no_time(start: bytes) -> None:
    comments = start + b"<!---->\n" * 100
    assert kind_of(comments + b"x", "") is Kind.TEXT  # took exponential time
    assert kind_of(comments + b"<html>", "") is Kind.HTML


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (PNG, "image"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF", "image"),
        (b"GIF89a\x01\0\x01\0\x80", "image"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "image"),
        (b"\0\0\0\x20ftypisom\0\0", "video"),
        (ZIP, "office"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "compressed"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "office"),
    ],
)
@pytest.mark.parametrize("name", ["a.txt", "a.html", ""])
def test_files_that_are_no_text_are_named(data: bytes, name: str, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        extracted(data, name, 100)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"a\r\nb\rc\n", "a\nb\nc\n"),
        ("äöü €".encode(), "äöü €"),
        (codecs.BOM_UTF8 + "ä".encode(), "ä"),
        (codecs.BOM_UTF16_LE + "hä".encode("utf-16-le"), "hä"),
        (codecs.BOM_UTF16_BE + "hä".encode("utf-16-be"), "hä"),
        (codecs.BOM_UTF32_LE + "hä".encode("utf-32-le"), "hä"),
        ("Grüße aus Köln – bis bald".encode("cp1252"), "Grüße aus Köln – bis bald"),
        (b"a" * 200 + b"\0" + b"b\x1b[0m", "a" * 200 + "b[0m"),
        (b"a\xef\xbb\xbfb", "ab"),
        ("a\x85\x90b".encode(), "a\x85b"),
    ],
)
def test_text_is_decoded_and_cleaned(data: bytes, text: str) -> None:
    assert decoded(data) == text


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2\3",
        b"ab\0",
        "h\0ä\0".encode("latin-1"),
        "Привет".encode("cp1251"),
        b"\xe9",
        codecs.BOM_UTF16_LE + b"\x00\xd8a",
        bytes(range(256)),
    ],
)
def test_bytes_that_are_no_text(data: bytes) -> None:
    with pytest.raises(Unreadable, match="is not a file whose text can be read"):
        decoded(data)


@given(st.binary(max_size=300), st.sampled_from(["", "a.txt", "a.html", "a.pdf", "b.json"]))
def test_any_bytes_are_text_or_unreadable(data: bytes, name: str) -> None:
    with suppress(Unreadable):
        text = extracted(data, name, 400)
        assert text.strip()
        assert text.encode()
        assert not set(text) & set(map(chr, range(9)))


@given(st.text(min_size=1))
def test_text_in_utf_8_is_read_whatever_its_characters(text: str) -> None:
    data = text.encode()
    controls = sum(char < " " or char == "\x7f" for char in text)
    if controls or data.startswith((b"BM", b"II*", b"%PDF", b"PK")) or b"ftyp" in data:
        return
    if cleaned(text).strip():
        assert set(extracted(data, "a.txt", 1 << 20)) <= {*text, "\n"}


def test_a_long_text_is_refused() -> None:
    assert extracted(b"abc", "", 3) == "abc"
    for data in (b"abcd", "ää".encode()):
        with pytest.raises(Unreadable, match="more than 3 bytes"):
            extracted(data, "", 3)


@pytest.mark.parametrize("data", [b"", b" \n\t\n", codecs.BOM_UTF8, b"<html><script>a</script></html>"])
def test_a_file_without_text(data: bytes) -> None:
    with pytest.raises(Unreadable, match="has no text"):
        extracted(data, "a.html", 100)
