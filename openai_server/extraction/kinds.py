"""Recognizes the kind of a file by its content, and then by its name, and decodes plain text. PURE.

The media type that a client sends is never read.
"""

import codecs
import re
from enum import StrEnum

from openai_server.extraction.errors import NO_TEXT, Unreadable


class Kind(StrEnum):
    TEXT = "text"
    """Plain text, JSON, CSV, Markdown, source code: used as it is."""
    HTML = "html"
    PDF = "pdf"


_PDF = b"%PDF-"
_PDF_START = 1024
"""Bytes in which readers look for the beginning of a PDF."""
_IMAGES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF87a", b"GIF89a", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0")
_MEDIA = "is an image, audio or video: this server reads only text so far"
_ARCHIVE = "is a compressed or an office document, which this server can't read; send it as PDF or text"
_ARCHIVES = (
    b"PK\3\4",
    b"PK\5\6",
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ",
    b"7z\xbc\xaf",
    b"Rar!",
    b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",
)
_SOUNDS = (b"RIFF", b"OggS", b"fLaC", b"ID3", b"\x1aE\xdf\xa3")

_HTML_NAMES = frozenset({"htm", "html", "shtml", "xhtml"})
_TEMPLATES = frozenset(
    [
        *("ejs", "erb", "hbs", "j2", "jinja", "jinja2", "jsx", "markdown", "md", "mdx", "mustache", "svelte", "svg"),
        *("tmpl", "tpl", "tsx", "txt", "vue", "xml", "xsl"),
    ]
)
"""Extensions of text in which a document in HTML is source code."""
_HTML_START = re.compile(
    rb"(?:<\?xml[^>]{0,200}>\s*)?(?>(?:<!--(?>.*?-->)\s*)*)<(?:!doctype\s+html|html)\b", re.I | re.S
)
"""Atomic groups: otherwise many comments would take exponential time."""

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # begins with the mark of UTF-16
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_CONTROLS = bytes(code for code in (*range(32), 127) if chr(code) not in "\t\n\r\f\b\x1b")
"""Bytes that text doesn't have. Terminals write \\b and ESC."""
_MAX_CONTROLS = 100
"""A text has at most one of _CONTROLS for this number of bytes."""
_MAX_HIGH = 0.3
"""Greatest share of bytes above 127 in a text in one of Western Europe's encodings."""
_CLEANED = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff\ud800-\udfff\ufffe\uffff]")


def kind_of(data: bytes, name: str) -> Kind:
    """Raises Unreadable for a kind that has no text. A file of the kind TEXT may still be none: `decoded` raises
    then."""
    start = data[:_PDF_START]
    head = start.removeprefix(codecs.BOM_UTF8).lstrip()
    extension = name.rpartition(".")[2].lower() if "." in name else ""
    if head.startswith(_PDF) or (extension == "pdf" and _PDF in start):
        return Kind.PDF
    is_media = start.startswith((*_IMAGES, *_SOUNDS)) or start[4:8] == b"ftyp"
    if (is_media or start.startswith(_ARCHIVES)) and not _is_utf8(start):
        raise Unreadable(_MEDIA if is_media else _ARCHIVE)
    if extension in _HTML_NAMES or (extension not in _TEMPLATES and _HTML_START.match(head)):
        return Kind.HTML
    return Kind.TEXT


def _is_utf8(start: bytes) -> bool:
    """Whether this is the beginning of a text in UTF-8, which may have the bytes of another kind by chance."""
    try:
        codecs.getincrementaldecoder("utf-8")().decode(start)
    except UnicodeDecodeError:
        return False
    return start.translate(None, _CONTROLS) == start


def decoded(data: bytes) -> str:
    """The text in these bytes: in UTF-8, in UTF-16 or UTF-32 with a mark of the byte order, or in Windows-1252 if it
    looks like text. Raises Unreadable."""
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return cleaned(_strictly(data[len(mark) :], encoding))
    n_controls = len(data) - len(data.translate(None, _CONTROLS))
    if n_controls * _MAX_CONTROLS > len(data):
        raise Unreadable(NO_TEXT)
    try:
        return cleaned(data.decode())
    except UnicodeDecodeError:
        pass
    n_high = len(data) - len(data.translate(None, bytes(range(128, 256))))
    if n_controls or n_high > _MAX_HIGH * len(data):
        raise Unreadable(NO_TEXT)
    return cleaned(_strictly(data, "cp1252"))


def _strictly(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        raise Unreadable(NO_TEXT) from None


def cleaned(text: str) -> str:
    """The text without control characters and with `\\n` at the end of each line."""
    return _CLEANED.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
