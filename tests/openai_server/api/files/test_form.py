"""Forms with a file, in pieces of any size."""

import re
from typing import NamedTuple

import pytest

from openai_server.api.files.form import (
    MAX_BOUNDARIES,
    MAX_FIELD_BYTES,
    MAX_HEADER_BYTES,
    MAX_HEADERS,
    MAX_NAME_CHARACTERS,
    MAX_PARTS,
    Form,
)
from openai_server.core.errors import APIError, InvalidRequest

CONTENT_TYPE = b"multipart/form-data; boundary=B"
FIELDS = ("purpose", "expires_after[seconds]")


class Read(NamedTuple):
    content: bytes
    filename: str
    fields: dict[str, str]


def read(*pieces: bytes, content_type: bytes = CONTENT_TYPE) -> Read:
    form = Form(content_type, file="file", fields=FIELDS)
    content = b"".join(form.feed(piece) for piece in pieces)
    return Read(content, form.end(), form.fields)


def part(headers: str | bytes, content: bytes, boundary: bytes = b"B") -> bytes:
    head = headers.encode() if isinstance(headers, str) else headers
    return b"--" + boundary + b"\r\nContent-Disposition: form-data; " + head + b"\r\n\r\n" + content + b"\r\n"


def file(content: bytes = b"x", filename: str | bytes = b'"f.txt"') -> bytes:
    name = filename.encode() if isinstance(filename, str) else filename
    return part(b'name="file"; filename=' + name, content)


def field(name: str, value: bytes) -> bytes:
    return part(f'name="{name}"', value)


END = b"--B--\r\n"
NASTY = b"\r\n--\r\n--B\r\r\n--Bx\n--B--\r\n--\r\r\n--C--\r\n\r\n--"
"""Contains most of a boundary, but none."""


@pytest.mark.parametrize("content", [b"", b"x", NASTY, b"\r\n" * 5, bytes(range(256)), b"\r\n--"])
def test_every_split_of_a_body_gives_the_same_result(content: bytes) -> None:
    body = b"\r\n" + file(content) + field("purpose", b"batch") + END + b"epilogue"
    whole = read(body)
    assert whole == Read(content, "f.txt", {"purpose": "batch"})
    assert read(*(body[k : k + 1] for k in range(len(body)))) == whole
    for k in range(len(body) + 1):
        assert read(body[:k], body[k:]) == whole
    for size in range(2, 9):
        assert read(*(body[k : k + size] for k in range(0, len(body), size))) == whole


def test_the_fields_have_any_order() -> None:
    parts = [file(b"x"), field("purpose", b"batch"), field("expires_after[seconds]", b"3600")]
    for first in range(3):
        rotated = parts[first:] + parts[:first]
        assert read(b"".join(rotated) + END) == Read(
            b"x", "f.txt", {"purpose": "batch", "expires_after[seconds]": "3600"}
        )


@pytest.mark.parametrize(
    ("sent", "filename"),
    [
        (b'"a b;c.txt"', "a b;c.txt"),
        (b"plain.txt", "plain.txt"),
        ('"\u00fc\u6587\U0001f600.txt"'.encode(), "\u00fc\u6587\U0001f600.txt"),
        (rb'"a\"b\\c\d"', r'a"b\c\d'),
        (b'"../../etc/passwd"', "../../etc/passwd"),
        (b'"\xff.txt"', "\ufffd.txt"),
        (b'"a\0b"', "a\ufffdb"),
        (b"\"x\"; filename*=UTF-8''%e2%82%ac.txt", "\u20ac.txt"),
        (b"\"x\"; filename*=iso-8859-1'en'%A3.txt", "\u00a3.txt"),
        (b'"x"; filename*=broken', "x"),
        (b"\"x\"; filename*=klingon''y", "x"),
        (b'"' + b"n" * MAX_NAME_CHARACTERS + b'"', "n" * MAX_NAME_CHARACTERS),
        (b'"' + "\U0001f600".encode() * MAX_NAME_CHARACTERS + b'"', "\U0001f600" * MAX_NAME_CHARACTERS),
    ],
)
def test_names_of_files(sent: bytes, filename: str) -> None:
    assert read(file(filename=sent) + END).filename == filename


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        (b"", None, "ends before its last boundary"),
        (file(), None, "ends before its last boundary"),
        (file()[:-5], None, "ends before its last boundary"),
        (b"{}", None, "no valid form"),
        (b"--C\r\n", None, "no valid form"),
        (END, "file", "required"),
        (field("purpose", b"batch") + END, "file", "required"),
        (part('name="file"', b"x") + END, "file", "needs a filename"),
        (file(filename=b'""') + END, "file", "needs a filename"),
        (file(filename=b'"' + b"n" * (MAX_NAME_CHARACTERS + 1) + b'"') + END, "file", "1024 characters"),
        (file() + file() + END, "file", "twice"),
        (field("purpose", b"a") + field("purpose", b"a") + END, "purpose", "twice"),
        (field("zzz", b"a") + END, "zzz", "Unrecognized request argument supplied: zzz"),
        (part(b"filename=x", b"a") + END, None, "with a name"),
        (part(b'name="file', b"a") + END, None, "with a name"),
        (b"--B\r\n\r\nx\r\n" + END, None, "with a name"),
        (b'--B\r\nContent-Disposition: attachment; name="file"; filename=x\r\n\r\n\r\n' + END, None, "with a name"),
        (field("purpose", b"x" * (MAX_FIELD_BYTES + 1)) + END, "purpose", "1024 bytes"),
        (field("purpose", b"\xff") + END, "purpose", "UTF-8"),
        (part('name="purpose"\r\nX-Long: ' + "x" * 20_000, b"") + END, None, "no valid form"),
        (part('name="purpose"' + "".join(f"\r\nX-{n}: y" for n in range(9)), b"") + END, None, "no valid form"),
        (b"--B\r\nno colon\r\n\r\n" + END, None, "no valid form"),
    ],
)
def test_a_wrong_form_is_refused(body: bytes, param: str | None, message: str) -> None:
    for pieces in ((body,), tuple(body[k : k + 1] for k in range(len(body)))):
        with pytest.raises(InvalidRequest, match=message) as raised:
            read(*pieces)
        assert raised.value.param == param


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"--C\r\n" + file()[5:] + END, "doesn't begin with the boundary of its Content-Type"),
        (file().replace(b"\r\n", b"\n") + END, "doesn't begin with the boundary of its Content-Type"),
        (part('name="purpose"\r\nX: ' + "x" * MAX_HEADER_BYTES, b"x") + END, f"has more than {MAX_HEADER_BYTES} bytes"),
        (part('name="purpose"' + "\r\nX: x" * MAX_HEADERS, b"x") + END, f"has more than {MAX_HEADERS} headers"),
        (b"--B\r\nno colon\r\n\r\n" + END, "wrong at byte 7"),
    ],
)
def test_a_message_about_a_malformed_form_is_for_its_sender(body: bytes, message: str) -> None:
    for pieces in ((body,), [body[k : k + 1] for k in range(len(body))]):
        with pytest.raises(InvalidRequest, match=re.escape(message)):
            read(*pieces)


def test_the_number_of_fields_is_limited() -> None:
    names = tuple(f"f{n}" for n in range(MAX_PARTS))
    form = Form(CONTENT_TYPE, file="file", fields=names)
    with pytest.raises(InvalidRequest, match="16 fields"):
        form.feed(b"".join(field(name, b"") for name in names) + file() + END)


@pytest.mark.parametrize("unit", [b"\r\n--Bx", b"\r\n--B\r\r", b"\r\n--B-"])
def test_a_content_with_many_boundaries_is_refused(unit: bytes) -> None:
    body = file(unit * MAX_BOUNDARIES) + END
    assert read(file(unit * (MAX_BOUNDARIES - 1)) + END).content == unit * (MAX_BOUNDARIES - 1)
    with pytest.raises(InvalidRequest, match="has the boundary"):
        read(body)


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/form-data; boundary=" + b"b" * 70,
        b'Multipart/Form-Data; charset=utf-8; boundary="a b:c"',
        b"multipart/form-data;boundary=B",
    ],
)
def test_boundaries(content_type: bytes) -> None:
    boundary = content_type.partition(b"boundary=")[2].strip(b'"')
    body = part(b'name="file"; filename=f', b"x", boundary) + b"--" + boundary + b"--"
    assert read(body, content_type=content_type).content == b"x"


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (b"", 415),
        (b"application/json", 415),
        (b"multipart/mixed; boundary=B", 415),
        (b"multipart/form-data", 400),
        (b"multipart/form-data; boundary=", 400),
        (b"multipart/form-data; boundary=" + b"b" * 71, 400),
        (b'multipart/form-data; boundary="a', 400),
        (b"multipart/form-data; boundary", 400),
    ],
)
def test_a_request_without_a_boundary_is_refused(content_type: bytes, status: int) -> None:
    with pytest.raises(APIError) as raised:
        read(b"", content_type=content_type)
    assert raised.value.status == status
