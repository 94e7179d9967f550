"""The text of a PDF."""

import io
import logging
import re

from openai_server.extraction.errors import BROKEN_PDF, MissingPackage, Unreadable

IS_SCANNED = "has no text (it may be scanned pages)"
IS_ENCRYPTED = "is encrypted"
MAX_PAGES = 5000


def text_of_pdf(data: bytes, max_characters: int) -> str:
    """The text of the pages, with an empty line between two of them; at least `max_characters` of a longer one.

    Raises Unreadable and MissingPackage. Takes time and memory that a hostile file decides on.
    """
    try:
        from pypdf import PdfReader
        from pypdf.errors import DependencyError, PdfReadError
    except ImportError as error:
        raise MissingPackage("pypdf") from error
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # it warns about each fault that it gets over
    try:
        try:
            reader = PdfReader(io.BytesIO(data), strict=False)
        except PdfReadError:
            reader = PdfReader(io.BytesIO(_mended(data)), strict=False)
        if reader.is_encrypted and not reader.decrypt(""):
            raise Unreadable(IS_ENCRYPTED)
        return _text_of_pages(reader, max_characters)
    except (Unreadable, MemoryError):
        raise
    except DependencyError as error:  # for a cipher that only another package can decrypt
        raise Unreadable(IS_ENCRYPTED) from error
    except Exception as error:  # of any type, since the library meets what no writer of PDFs would write
        raise Unreadable(BROKEN_PDF) from error


def _mended(data: bytes) -> bytes:
    """A PDF that was cut off, or written by hand, with an end from which the library looks for its objects itself."""
    end = b"\nstartxref\n0\n%%EOF\n"
    if b"trailer" not in data and (catalog := _CATALOG.search(data)):
        end = b"\ntrailer<</Root %s 0 R>>%s" % (catalog[1], end)
    return data + end


_CATALOG = re.compile(rb"(\d{1,9})\s+0\s+obj[^>]{0,200}/Type\s*/Catalog\b")
"""The object from which all others can be found."""


def _text_of_pages(reader: object, max_characters: int) -> str:
    texts: list[str] = []
    n_characters = 0
    failure: Exception | None = None
    for i, page in enumerate(reader.pages):  # type: ignore[attr-defined]
        if i == MAX_PAGES:
            raise Unreadable(f"has more than {MAX_PAGES} pages, this server's limit")
        try:
            text = page.extract_text().strip()
        except MemoryError:
            raise
        except Exception as error:  # the other pages may be readable
            failure = error
            continue
        if text:
            texts.append(text)
            n_characters += len(text)
        if n_characters > max_characters:
            break
    if not texts:
        raise Unreadable(IS_SCANNED if failure is None else BROKEN_PDF)
    return "\n\n".join(texts)
