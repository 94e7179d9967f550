from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openai_server.extraction.errors import Unreadable
from openai_server.extraction.extract import extracted
from tests.openai_server.extraction import pdfs

TWO_PAGES = pdfs.with_pages([pdfs.lines("a", "b"), pdfs.lines("c")])


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (TWO_PAGES, "a\nb\n\nc"),
        (pdfs.with_pages([pdfs.lines("a"), b"", pdfs.lines("c")], filters=2), "a\n\nc"),
        (pdfs.ONE_LINE, "The code is 4711."),
        (TWO_PAGES[: TWO_PAGES.index(b"xref")], "a\nb\n\nc"),
        (TWO_PAGES[:-20], "a\nb\n\nc"),
        (b"\n\n" + TWO_PAGES, "a\nb\n\nc"),
    ],
)
def test_text_of_pdf(data: bytes, text: str) -> None:
    assert extracted(data, "a.pdf", 1000) == text


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (pdfs.with_pages([b""]), r"has no text \(it may be scanned pages\)"),
        (pdfs.encrypted(), "is encrypted"),
        (b"%PDF-1.4\ngarbage", "is not a PDF that can be read"),
        (pdfs.circular_pages(), "is not a PDF that can be read"),
        (pdfs.nested_arrays(100_000), "is not a PDF that can be read"),
        (pdfs.recursive_form(), "has no text"),
        (pdfs.with_pages([pdfs.lines("x" * 60)] * 3), "more than 100 bytes of text"),
    ],
)
def test_pdfs_that_cannot_be_read(data: bytes, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        extracted(data, "a.pdf", 100)


@given(st.binary(max_size=20), st.integers(0, len(TWO_PAGES)), st.integers(0, 20))
def test_a_damaged_pdf_is_text_or_unreadable(garbage: bytes, start: int, n: int) -> None:
    damaged = TWO_PAGES[:start] + garbage + TWO_PAGES[start + n :]
    with suppress(Unreadable):
        assert extracted(damaged, "a.pdf", 1000)
