"""PDFs written by hand, good and hostile ones."""

import zlib
from collections.abc import Sequence

# One uncompressed line of text, without an xref table, as in the suite of llm-comply.
ONE_LINE = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj
4 0 obj<</Length 44>>stream
BT /F1 12 Tf 72 720 Td (The code is 4711.) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
"""


def document(objects: Sequence[bytes], trailer: bytes = b"") -> bytes:
    """A PDF of these objects, numbered from 1, with an xref table. The first one is the catalog."""
    data, offsets = b"%PDF-1.7\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(data))
        data += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    size = len(objects) + 1
    end = b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" % (size, trailer, len(data))
    return data + b"xref\n0 %d\n0000000000 65535 f \n%s" % (size, table) + end


def stream(content: bytes, filters: int = 0) -> bytes:
    """A stream that is compressed this number of times."""
    for _ in range(filters):
        content = zlib.compress(content, 9)
    names = b"/Filter[%s]" % (b"/FlateDecode" * filters) if filters else b""
    return b"<</Length %d%s>>stream\n%s\nendstream" % (len(content), names, content)


FONT = b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>"


def with_pages(contents: Sequence[bytes], trailer: bytes = b"", filters: int = 0) -> bytes:
    """A PDF with a page for each content stream."""
    n = len(contents)
    kids = b" ".join(b"%d 0 R" % (4 + 2 * i) for i in range(n))
    objects = [b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[%s]/Count %d>>" % (kids, n), FONT]
    for i, content in enumerate(contents):
        page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents %d 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
        objects += [page % (5 + 2 * i), stream(content, filters)]
    return document(objects, trailer)


def lines(*texts: str) -> bytes:
    """The content stream with these lines."""
    shown = b" ".join(b"(%s) Tj 0 -14 Td" % text.encode() for text in texts)
    return b"BT /F1 12 Tf 72 720 Td %s ET" % shown


def encrypted() -> bytes:
    """A PDF that needs a password."""
    owner, user = b"(" + b"o" * 32 + b")", b"(" + b"u" * 32 + b")"
    security = b"/Encrypt<</Filter/Standard/V 2/R 3/Length 128/P -4/O%s/U%s>>/ID[(a)(a)]" % (owner, user)
    return with_pages([lines("secret")], security)


def bomb() -> bytes:
    """A page whose 1 GiB is compressed twice, to some kilobytes."""
    inner = zlib.compressobj(9)
    mebibyte = b" " * (1 << 20)
    content = b"".join(inner.compress(mebibyte) for _ in range(1024)) + inner.flush()
    content = zlib.compress(content, 9)
    body = b"<</Length %d/Filter[/FlateDecode/FlateDecode]>>stream\n%s\nendstream" % (len(content), content)
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R>>"
    return document([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[3 0 R]/Count 1>>", page, body])


def circular_pages() -> bytes:
    return document([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Kids[2 0 R 2 0 R]/Count 1000000>>"])


def nested_arrays(depth: int) -> bytes:
    return document([b"<</Type/Catalog/Pages 2 0 R/X %s>>" % (b"[" * depth), b"<</Type/Pages/Kids[]/Count 0>>"])


def huge_count() -> bytes:
    """A million references to one page, which takes the time of a million pages."""
    kids = b"4 0 R " * 1_000_000
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 5 0 R/Resources<</Font<</F1 3 0 R>>>>>>"
    pages = b"<</Type/Pages/Kids[%s]/Count 1000000>>" % kids
    return document([b"<</Type/Catalog/Pages 2 0 R>>", pages, FONT, page, stream(lines("x"))])


def recursive_form() -> bytes:
    """A page that draws a form that draws itself."""
    fields = b"/Type/XObject/Subtype/Form/BBox[0 0 1 1]/Resources<</XObject<</X 5 0 R>>>>/Length 5"
    form = b"<<%s>>stream\n/X Do\nendstream" % fields
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 9 9]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>"
    pages = b"<</Type/Pages/Kids[3 0 R]/Count 1>>"
    return document([b"<</Type/Catalog/Pages 2 0 R>>", pages, page, stream(b"/X Do"), form])
